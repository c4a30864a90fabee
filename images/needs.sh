# To be sourced: what the scripts beside it need.

# needs TOOL=PACKAGE…: ends the script if a tool is missing, and says what to install.
needs() {
	local entry
	for entry in "$@"; do
		command -v "${entry%%=*}" >/dev/null && continue
		echo "${0##*/}: no ${entry%%=*}: install the package ${entry#*=}, or run scripts/setup dist" >&2
		exit 1
	done
}
