// SPDX-License-Identifier: GPL-2.0-only
#include "utf8.h"

u32 cb_utf8_length(const u8 *text)
{
	u8 first = text[0], low = 0x80, high = 0xbf;
	u32 length, i;

	if (first < 0x80)
		return first ? 1 : 0;
	if (first < 0xc2 || first > 0xf4)
		return 0;
	length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
	/* Overlong forms, surrogates and what is above U+10FFFF differ in the second byte. */
	if (first == 0xe0)
		low = 0xa0;
	else if (first == 0xed)
		high = 0x9f;
	else if (first == 0xf0)
		low = 0x90;
	else if (first == 0xf4)
		high = 0x8f;
	for (i = 1; i < length; i++) {
		if (text[i] < low || text[i] > high)
			return 0;
		low = 0x80;
		high = 0xbf;
	}
	return length;
}
