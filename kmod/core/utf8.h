/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which bytes of a string are UTF-8: names of files may hold any, and the report is
 * JSON, which may not.
 */
#ifndef COWBIRD_CORE_UTF8_H
#define COWBIRD_CORE_UTF8_H

#include "platform.h"

/*
 * Bytes of the character that the string begins with, 1 to 4; 0 when these are not
 * the bytes of one (RFC 3629: neither overlong forms nor surrogates), or when the
 * string is at its end. Nothing is read behind the terminating zero.
 */
u32 cb_utf8_length(const u8 *text);

#endif
