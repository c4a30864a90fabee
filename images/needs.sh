# To be sourced: what the scripts beside it need.

refuse() { echo "${0##*/}: $*" >&2; exit 1; }

# needs TOOL=PACKAGE…: ends the script if a tool is missing, and says what to install.
needs() {
	local entry
	for entry in "$@"; do
		command -v "${entry%%=*}" >/dev/null ||
			refuse "no ${entry%%=*}: install the package ${entry#*=}, or run scripts/setup dist"
	done
}

# place OUTPUT INPUT…: prints where OUTPUT is, behind symbolic links. Ends the script if something else than a
# regular file is there, or something that is read. The script writes to OUTPUT.new, and renames that.
place() {
	local output input
	[ ! -e "$1" ] || [ -f "$1" ] || refuse "$1 is no regular file"
	output=$(realpath -m -- "$1")
	[ ! -L "$output.new" ] && { [ ! -e "$output.new" ] || [ -f "$output.new" ]; } ||
		refuse "$output.new is no regular file"
	for input in "${@:2}"; do
		[ ! "$input" -ef "$output" ] && [ ! "$input" -ef "$output.new" ] ||
			refuse "$input is read and would be written"
	done
	echo "$output"
}

# bytes FILE OFFSET COUNT: in hexadecimal, of the contents of a file that may be compressed with gzip. What
# goes wrong there is what is looked for; and head ends the pipe early.
bytes() {
	{ gzip -dcf -- "$1" | head -c $(($2 + $3)) | tail -c +$(($2 + 1)) | od -An -v -tx1 | tr -d ' \n'; } 2>/dev/null ||
		true
}

# What a file has to be, compressed with gzip or not; ends the script if it is not.
wants_image() {
	[ -r "$1" ] || refuse "cannot read $1"
	# Documentation/arm64/booting.rst of Linux: the magic number of the header.
	[ "$(bytes "$1" 56 4)" = 41524d64 ] || refuse "$1 is no Image of an arm64 kernel"
}
# The same, or a compressed UEFI program of one (EFI_ZBOOT).
wants_kernel() { [ -r "$1" ] && [ "$(bytes "$1" 4 4)" = 7a696d67 ] || wants_image "$1"; }
wants_gzip() {
	[ -r "$1" ] || refuse "cannot read $1"
	gzip -t -- "$1" 2>/dev/null || refuse "$1 is not compressed with gzip, or damaged"
}
wants_cpio() {
	[ -r "$1" ] || refuse "cannot read $1"
	[ "$(head -c 2 -- "$1" | od -An -tx1)" != ' 1f 8b' ] || wants_gzip "$1"
	# "070701" or "070702", the latter with checksums.
	[[ $(bytes "$1" 0 6) = 30373037303[12] ]] || refuse "$1 is no cpio archive as the kernel reads it"
	# Zeros may follow the name of the last member.
	{ gzip -dcf -- "$1" | tail -c 65536 | grep -a 'TRAILER!!!'; } >/dev/null 2>&1 ||
		refuse "$1 is cut off: a cpio archive ends with TRAILER!!!"
}
wants_dtb() {
	[ -r "$1" ] || refuse "cannot read $1"
	[ "$(head -c 4 -- "$1" | od -An -tx1 | tr -d ' ')" = d00dfeed ] || refuse "$1 is no device tree blob"
	[ $((16#$(bytes "$1" 4 4))) -le "$(stat -Lc %s -- "$1")" ] || refuse "$1 is cut off"
}
