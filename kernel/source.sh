# What the scripts beside it share: the kernel source, and the series that is for it. To be sourced.

source=${KERNEL_SRC:-/usr/src/linux-source-6.1.tar.xz}

# unpack FOLDER: copies the source, a folder or a tar archive, into it.
unpack() {
	[ -e "$source" ] || { echo "no kernel source at $source (KERNEL_SRC)" >&2; return 1; }
	if [ -f "$source" ]; then
		tar -C "$1" --strip-components=1 -xf "$source"
	else
		# Left-overs of a build in the tree would be taken for ours.
		tar -C "$source" --exclude=.git -cf - . | tar -C "$1" -xf - && make -s -C "$1" mrproper
	fi
}

# series: prints the patches for that version of the source, in order.
series() {
	local makefile version
	if [ -f "$source" ]; then
		makefile=$(tar --wildcards --no-wildcards-match-slash --occurrence=1 -xOf "$source" '*/Makefile')
	else
		makefile=$(cat "$source/Makefile")
	fi || return 1
	version=$(awk '$1 == "VERSION" { v = $3 } $1 == "PATCHLEVEL" { print v "." $3; exit }' <<<"$makefile")
	ls "$here/patches/$version"/*.patch 2>/dev/null && return
	echo "no series for Linux $version; there is: $(ls "$here/patches" | xargs)" >&2
	return 1
}
