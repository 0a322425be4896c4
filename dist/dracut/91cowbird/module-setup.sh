#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Puts Cowbird into the initramfs, where there is a series to take up again.

check() {
	local records=(/etc/cowbird/*.json)
	[ -e "${records[0]}" ] || return 1
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
	inst_multiple /etc/cowbird/*.json
	# shellcheck disable=SC2154 # dracut sets it
	inst_hook pre-mount 10 "$moddir/cowbird-reload.sh"
}
