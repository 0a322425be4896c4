// SPDX-License-Identifier: GPL-2.0-only
/*
 * The sums by which preserved blocks are known (core/sum.h), as fast as the CPU makes them:
 * one for each block that is stored, and one for each that is read from the COW file.
 *
 * The crc32 instruction takes 8 bytes in 3 cycles and needs no FPU, so that completions may
 * use it as well; the core's tables, which are for everybody, take five times as long.
 */
#ifdef CONFIG_X86_64
#include <asm/cpufeature.h>
#endif

#include "cowbird.h"
#include "core/sum.h"

#ifdef CONFIG_X86_64

static bool cb_sums_by_cpu __read_mostly;

static u32 cb_sum_by_cpu(u32 sum, const u8 *bytes, size_t length)
{
	u64 crc = (u32)~sum;

	for (; length >= 8; bytes += 8, length -= 8)
		asm("crc32q %1, %0" : "+r"(crc) : "rm"(*(const u64 *)bytes));
	for (; length; bytes++, length--)
		asm("crc32b %1, %0" : "+r"(crc) : "rm"(*bytes));
	return ~(u32)crc;
}

/* What the two make of a few bytes at an odd place must be the same. */
void cb_sums_init(void)
{
	static const u8 bytes[] = "-checked by CRC-32C";

	cb_sums_by_cpu = boot_cpu_has(X86_FEATURE_XMM4_2) &&
			 cb_sum_by_cpu(0, bytes + 1, sizeof(bytes) - 1) ==
				 cb_crc32c(bytes + 1, sizeof(bytes) - 1);
}

u32 cb_sum_more(u32 sum, const void *bytes, size_t length)
{
	return cb_sums_by_cpu ? cb_sum_by_cpu(sum, bytes, length) :
				cb_crc32c_more(sum, bytes, length);
}

#else

void cb_sums_init(void)
{
}

u32 cb_sum_more(u32 sum, const void *bytes, size_t length)
{
	return cb_crc32c_more(sum, bytes, length);
}

#endif

u32 cb_sum_of_page(u64 block, struct page *page)
{
	void *content = cb_kmap(page);
	u32 sum = cb_sum_more(cb_sum_begin(block), content, CB_BLOCK_BYTES);

	cb_kunmap(content);
	return sum;
}
