#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Takes up again what can be, before the root filesystem is mounted. A series that cannot go on
# must not keep the machine from booting; the tool has said why.
if modprobe cowbird; then
	cowbirdctl reload --all || :
fi
