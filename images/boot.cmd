# U-Boot's script on a disk: boots a FIT, or kernel, initramfs and device tree. uEnv.txt sets bootargs, and
# fdtfile for a board whose device tree is a file.
load ${devtype} ${devnum}:${distro_bootpart} ${scriptaddr} uEnv.txt && env import -t ${scriptaddr} ${filesize}
if test -e ${devtype} ${devnum}:${distro_bootpart} tablewalk.itb; then
	load ${devtype} ${devnum}:${distro_bootpart} ${ramdisk_addr_r} tablewalk.itb && bootm ${ramdisk_addr_r}
else
	load ${devtype} ${devnum}:${distro_bootpart} ${kernel_addr_r} Image &&
	load ${devtype} ${devnum}:${distro_bootpart} ${fdt_addr_r} ${fdtfile} &&
	load ${devtype} ${devnum}:${distro_bootpart} ${ramdisk_addr_r} initramfs.cpio.gz &&
	booti ${kernel_addr_r} ${ramdisk_addr_r}:${filesize} ${fdt_addr_r}
fi
