# For linux-yocto 6.1 and 6.12. For another kernel recipe, copy this file under the name of that recipe.
TABLEWALK_SERIES = "${@'.'.join(d.getVar('LINUX_VERSION').split('.')[:2])}"
FILESEXTRAPATHS:prepend := "${TABLEWALK_SOURCE}/kernel/patches:"
SRC_URI:append:aarch64 = " file://${TABLEWALK_SERIES}/0001-mm-add-remap_page_table-system-call-for-arm64.patch"

do_configure:append:aarch64() {
    ${S}/scripts/kconfig/merge_config.sh -m -O ${B} ${B}/.config ${TABLEWALK_SOURCE}/kernel/config/needs.config
    oe_runmake -C ${S} O=${B} olddefconfig
}
