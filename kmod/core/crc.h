/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef COWBIRD_CORE_CRC_H
#define COWBIRD_CORE_CRC_H

#include "platform.h"

/* CRC-32C (Castagnoli). */
u32 cb_crc32c(const u8 *bytes, size_t length);

/* The same of bytes that follow those with this CRC; 0 for none. */
u32 cb_crc32c_more(u32 crc, const u8 *bytes, size_t length);

#endif
