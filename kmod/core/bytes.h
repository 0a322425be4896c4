/* SPDX-License-Identifier: GPL-2.0-only */
/* Little-endian numbers at any place of a disk block. */
#ifndef COWBIRD_CORE_BYTES_H
#define COWBIRD_CORE_BYTES_H

#include "platform.h"

static inline void cb_put(u8 *at, u64 value, int bytes)
{
	while (bytes-- > 0) {
		*at++ = (u8)value;
		value >>= 8;
	}
}

static inline u64 cb_get(const u8 *at, int bytes)
{
	u64 value = 0;

	while (bytes-- > 0)
		value = value << 8 | at[bytes];
	return value;
}

#endif
