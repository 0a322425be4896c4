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

/* As cb_get of 8 bytes, in a form that compilers make a single load of. */
static inline u64 cb_get64(const u8 *at)
{
	return (u64)at[0] | (u64)at[1] << 8 | (u64)at[2] << 16 | (u64)at[3] << 24 |
	       (u64)at[4] << 32 | (u64)at[5] << 40 | (u64)at[6] << 48 | (u64)at[7] << 56;
}

#endif
