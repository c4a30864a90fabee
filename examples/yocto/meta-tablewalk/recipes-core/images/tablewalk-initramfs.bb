SUMMARY = "An initramfs that holds the programs of Tablewalk and runs them"
DESCRIPTION = "Give it to the boot loader, or build it into the kernel: INITRAMFS_IMAGE = \"tablewalk-initramfs\"."
LICENSE = "MIT"

PACKAGE_INSTALL = "tablewalk-init"
IMAGE_FEATURES = ""
IMAGE_LINGUAS = ""
IMAGE_FSTYPES = "${INITRAMFS_FSTYPES}"
IMAGE_ROOTFS_SIZE = "8192"
IMAGE_ROOTFS_EXTRA_SPACE = "0"

inherit core-image

COMPATIBLE_HOST = "aarch64.*-linux"
