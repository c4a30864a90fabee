# What the scripts beside it share: the kernel source, the series that is for it, and where what is built
# stays. To be sourced by a script that has set `here`, the folder of this file.

source=${KERNEL_SRC:-/usr/src/linux-source-6.1.tar.xz}
# A shell knows where the user is at home without the variable.
cache=${TABLEWALK_CACHE:-${XDG_CACHE_HOME:-${HOME:-$(unset HOME; echo ~)}/.cache}/tablewalk}

# forget: keeps the variables of the environment from the commands of the script, all but these. Those for other
# projects (KCFLAGS, LOCALVERSION, LLVM, CPATH, GIT_DIR, TAR_OPTIONS, MAKEFLAGS …) would make another kernel than the
# key of the cache says. The script has them still.
forget() {
	local name
	unset CDPATH
	for name in $(compgen -e); do
		case $name in
		PATH | HOME | TMPDIR | XDG_CACHE_HOME | CCACHE_DIR) ;;
		*) export -n "${name?}" ;;
		esac
	done
}

# unpack FOLDER: copies the source, a folder or a tar archive, into it.
unpack() {
	if [ -f "$source" ]; then
		tar -C "$1" --strip-components=1 -xf "$source"
	else
		# Left-overs of a build in the tree would be taken for ours.
		tar -C "$source" --exclude=.git -cf - . | tar -C "$1" -xf - && make -s -C "$1" mrproper
	fi
}

# version: prints that of the source, as 6.1.
version() {
	local makefile version
	[ -e "$source" ] || { echo "no kernel source at $source (KERNEL_SRC)" >&2; return 1; }
	if [ -f "$source" ]; then
		makefile=$(tar --wildcards --no-wildcards-match-slash --occurrence=1 -xOf "$source" '*/Makefile' \
			2>/dev/null) || makefile=
	else
		makefile=$(cat "$source/Makefile" 2>/dev/null) || makefile=
	fi
	version=$(awk '$1 == "VERSION" { v = $3 } $1 == "PATCHLEVEL" { print v "." $3; exit }' <<<"$makefile")
	[ -n "$version" ] && echo "$version" && return
	echo "$source is no kernel tree, nor a tar archive of one (KERNEL_SRC)" >&2
	return 1
}

# series: prints the patches for the version of the source, in order.
series() {
	local version
	version=$(version) || return 1
	ls "$here/patches/$version"/*.patch 2>/dev/null && return
	echo "no series for Linux $version; there is: $(ls "$here/patches" | xargs)" >&2
	return 1
}

# fragments VERSION NAME…: prints the files of fragments of the configuration, in order. Beside NAME.config
# there may be NAME-VERSION.config, for options that other versions lack.
fragments() {
	local version=$1 name
	shift
	for name in "$@"; do
		ls "$here/config/$name.config" 2>/dev/null || {
			echo "no fragment $name of the configuration; there is: $(cd "$here/config" && ls ./*.config |
				sed 's,./\(.*\).config,\1,' | xargs)" >&2
			return 1
		}
		ls "$here/config/$name-$version.config" 2>/dev/null || true
	done
}
