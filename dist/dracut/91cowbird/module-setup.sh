#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Puts Cowbird into the initramfs, where there is a series to take up again.

# Only regular files: a dangling link or a pipe in that folder must not stop the making of an initramfs.
cowbird_records() {
	local record
	for record in /etc/cowbird/*.json; do
		if [ -f "$record" ] && [ ! -L "$record" ]; then
			printf '%s\n' "$record"
		fi
	done
}

check() {
	[ -n "$(cowbird_records)" ] || return 1
	require_binaries cowbirdctl
}

depends() {
	return 0
}

installkernel() {
	instmods cowbird
}

install() {
	inst_binary cowbirdctl
	local records
	mapfile -t records < <(cowbird_records)
	inst_multiple "${records[@]}"
	# shellcheck disable=SC2154 # dracut sets it
	inst_hook pre-mount 10 "$moddir/cowbird-reload.sh"
}
