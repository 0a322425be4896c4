/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The few things that the core needs from its surroundings. The core is pure:
 * it allocates nothing, sleeps nowhere and knows no kernel structure, so that
 * the same files run in user space under property tests and sanitizers.
 */
#ifndef COWBIRD_CORE_PLATFORM_H
#define COWBIRD_CORE_PLATFORM_H

#ifdef __KERNEL__
#include <linux/compiler.h>
#include <linux/errno.h>
#include <linux/string.h>
#include <linux/types.h>
#define CB_READ_ONCE(x) READ_ONCE(x)
#define CB_WRITE_ONCE(x, value) WRITE_ONCE(x, value)
#else
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
#define CB_READ_ONCE(x) (*(const volatile __typeof__(x) *)&(x))
#define CB_WRITE_ONCE(x, value) (*(volatile __typeof__(x) *)&(x) = (value))
#endif

#define CB_SECTOR_BYTES 512u
#define CB_BLOCK_BYTES 4096u
#define CB_BLOCK_SECTORS 8u
#define CB_BLOCK_SECTOR_SHIFT 3

#endif
