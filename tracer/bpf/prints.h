/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Fingerprints: XXH64 with seed 0, sealed unless told otherwise, of each 4 KiB block of the content of a bio,
 * on the grid of the recorded device. What a bio has of a block that it does
 * not cover whole is a piece, with a fingerprint of its own.
 *
 * A block may be scattered over any number of bio_vecs, and requests over
 * bios; it is gathered in a buffer first. The buffer belongs to one program on
 * one CPU, which cannot be entered twice there, except on kernels without a
 * guard against recursion (`busy` is for these; there the buffers of the
 * programs for other chances, which are not attached, are for those that interrupt).
 *
 * Functions that are not static are verified once, on their own, not once for
 * every way that leads to them.
 */
#ifndef COWBIRD_BPF_PRINTS_H
#define COWBIRD_BPF_PRINTS_H

#define BLOCK_BYTES 4096
#define BLOCK_SECTORS 8
#define STEPS 128 /* of each of two loops: 16384 copies, 64 MiB in whole pages */
#define STRIPE_BYTES 32
#define UNROLLED 8 /* stripes in one turn of a loop */

/* Set by the loader. */
const volatile u32 grid_sectors = 0; /* where block 0 begins, modulo BLOCK_SECTORS */
const volatile u32 sealed = 0; /* whether fingerprints are, with this key */
const volatile u64 key_low = 0;
const volatile u64 key_high = 0;

/* Programs that gather; each has a buffer for each chance. */
enum gatherer {
	GATHER_QUEUE,
	GATHER_REQUEST,
	GATHER_BIO,
};

struct gathering {
	u64 bio; /* in hand */
	u64 vecs; /* its bio_vecs */
	u64 object; /* that the fingerprints belong to */
	u64 sector; /* where the piece in hand begins */
	u32 disk;
	u32 opf;
	u32 index; /* of the bio_vec in hand */
	u32 done; /* bytes of it */
	u32 bio_left;
	u32 left; /* bytes of all bios */
	u32 piece; /* bytes of the piece in hand */
	u32 filled; /* of these, gathered */
	u32 busy;
	u32 keep; /* the only fingerprint stays here */
	u32 faults;
	struct cbt_prints out;
	u8 buffer[2 * BLOCK_BYTES]; /* the second half only comforts the verifier */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct gathering);
} gatherings SEC(".maps");

#define PRIME1 0x9E3779B185EBCA87ULL
#define PRIME2 0xC2B2AE3D27D4EB4FULL
#define PRIME3 0x165667B19E3779F9ULL
#define PRIME4 0x85EBCA77C2B2AE63ULL

#define ROTATE(x, n) ((x) << (n) | (x) >> (64 - (n)))
#define ROUND(lane, input) (ROTATE((lane) + (input)*PRIME2, 31) * PRIME1)
#define MERGE(hash, lane) (((hash) ^ ROUND(0, lane)) * PRIME1 + PRIME4)

static __always_inline u64 xxh64_end(u64 a, u64 b, u64 c, u64 d, u32 bytes)
{
	u64 hash = ROTATE(a, 1) + ROTATE(b, 7) + ROTATE(c, 12) + ROTATE(d, 18);

	hash = MERGE(hash, a);
	hash = MERGE(hash, b);
	hash = MERGE(hash, c);
	hash = MERGE(hash, d);
	hash += bytes;
	hash = (hash ^ hash >> 33) * PRIME2;
	hash = (hash ^ hash >> 29) * PRIME3;
	return hash ^ hash >> 32;
}

/*
 * One of the four lanes of a whole block, of every fourth word. Lane by lane,
 * all that is needed stays in registers.
 */
static __always_inline u64 xxh64_lane(const u8 *buffer, u64 lane)
{
	u64 prime1 = PRIME1, prime2 = PRIME2, from;
	u32 i;

	asm volatile("" : "+r"(prime1), "+r"(prime2)); /* or they are loaded at each use */
	for (from = 0; from < BLOCK_BYTES; from += UNROLLED * STRIPE_BYTES) {
		const u64 *word;

		/* Or the compiler counts from a place before the buffer, which 7.2 refuses. */
		asm volatile("" : "+r"(from));
		word = (const u64 *)(buffer + from);
#pragma clang loop unroll(full)
		for (i = 0; i < UNROLLED; i++) {
			lane += word[4 * i] * prime2;
			lane = ROTATE(lane, 31) * prime1;
		}
	}
	return lane;
}

static __always_inline u64 xxh64_block(const u8 *buffer)
{
	return xxh64_end(xxh64_lane(buffer, PRIME1 + PRIME2), xxh64_lane(buffer + 8, PRIME2),
			 xxh64_lane(buffer + 16, 0), xxh64_lane(buffer + 24, -PRIME1), BLOCK_BYTES);
}

/* Stripe by stripe: slower, but with one place to stop at, for the verifier's sake. */
static __always_inline u64 xxh64_piece(const u8 *buffer, u32 stripes)
{
	u64 a = PRIME1 + PRIME2, b = PRIME2, c = 0, d = -PRIME1;
	u32 i;

	for (i = 0; i < BLOCK_BYTES / STRIPE_BYTES; i++) {
		const u64 *stripe = (const u64 *)(buffer + i * STRIPE_BYTES);

		if (i >= stripes)
			break;
		a = ROUND(a, stripe[0]);
		b = ROUND(b, stripe[1]);
		c = ROUND(c, stripe[2]);
		d = ROUND(d, stripe[3]);
	}
	return xxh64_end(a, b, c, d, stripes * STRIPE_BYTES);
}

#define SIP_ROUND(a, b, c, d)                                                                     \
	do {                                                                                      \
		a += b;                                                                           \
		c += d;                                                                           \
		b = ROTATE(b, 13) ^ a;                                                            \
		d = ROTATE(d, 16) ^ c;                                                            \
		a = ROTATE(a, 32);                                                                \
		c += b;                                                                           \
		a += d;                                                                           \
		b = ROTATE(b, 17) ^ c;                                                            \
		d = ROTATE(d, 21) ^ a;                                                            \
		c = ROTATE(c, 32);                                                                \
	} while (0)

/*
 * SipHash-2-4 of a fingerprint, so that nobody without the key can tell what content it is of; the same
 * as in tracer/src/prints.rs.
 */
static __always_inline u64 seal(u64 print)
{
	u64 length = 8ULL << 56;
	u64 a = key_low ^ 0x736f6d6570736575ULL, b = key_high ^ 0x646f72616e646f6dULL;
	u64 c = key_low ^ 0x6c7967656e657261ULL, d = key_high ^ 0x7465646279746573ULL;

	d ^= print;
	SIP_ROUND(a, b, c, d);
	SIP_ROUND(a, b, c, d);
	a ^= print;
	d ^= length;
	SIP_ROUND(a, b, c, d);
	SIP_ROUND(a, b, c, d);
	a ^= length;
	c ^= 0xff;
	SIP_ROUND(a, b, c, d);
	SIP_ROUND(a, b, c, d);
	SIP_ROUND(a, b, c, d);
	SIP_ROUND(a, b, c, d);
	return a ^ b ^ c ^ d;
}

/* Sends what there is. */
__noinline int gather_send(u32 slot)
{
	struct gathering *g = bpf_map_lookup_elem(&gatherings, &slot);
	struct cbt_counters *count = this_cpu_counters();
	struct cbt_prints *event;
	u32 i;

	if (!g || !g->out.count)
		return 0;
	event = count ? reserve(count, sizeof(*event)) : 0;
	if (event) {
		event->time_ns = bpf_ktime_get_ns();
		event->cpu = bpf_get_smp_processor_id();
		event->kind = CBT_FINGERPRINT;
		event->marks = 0;
		event->disk = g->disk;
		event->object = g->object;
		event->sector = g->out.sector;
		event->bytes = g->out.bytes;
		event->count = g->out.count;
		event->opf = g->opf;
		for (i = 0; i < CBT_PRINTS; i++)
			event->hash[i] = g->out.hash[i];
		submit(count, event);
	}
	g->out.count = 0;
	return 0;
}

/* The piece in hand is whole. */
__noinline int gather_hash(u32 slot)
{
	struct gathering *g = bpf_map_lookup_elem(&gatherings, &slot);
	u64 print;
	u32 at;

	if (!g)
		return 0;
	if (g->out.count && g->piece != BLOCK_BYTES)
		gather_send(slot);
	if (!g->out.count) {
		g->out.sector = g->sector;
		g->out.bytes = g->piece;
	}
	at = g->out.count;
	print = g->piece == BLOCK_BYTES ? xxh64_block(g->buffer)
					: xxh64_piece(g->buffer, g->piece / STRIPE_BYTES);
	if (sealed)
		print = seal(print);
	if (at < CBT_PRINTS)
		g->out.hash[at] = print;
	g->out.count = at + 1;
	g->sector += g->piece >> SECTOR_SHIFT;
	g->filled = 0;
	if (!g->keep && (at + 1 >= CBT_PRINTS || g->piece != BLOCK_BYTES))
		gather_send(slot);
	return 0;
}

static __always_inline void gather_from(struct gathering *g, struct bio *bio, u32 index, u32 done)
{
	void *vecs = 0;

	g->bio = (u64)bio;
	PEEK(vecs, bio->bi_io_vec);
	g->vecs = (u64)vecs;
	g->index = index;
	g->done = done;
}

static __always_inline u32 bytes_done(struct bio *bio)
{
	struct bvec_iter___offset *iter = (void *)&bio->bi_iter;
	u32 done = 0;

	if (field_exists(iter->bi_offset))
		PEEK(done, iter->bi_offset);
	else
		PEEK(done, bio->bi_iter.bi_bvec_done);
	return done;
}

static __always_inline void gather_bio(struct gathering *g, struct bio *bio)
{
	u32 index = 0;

	PEEK(index, bio->bi_iter.bi_idx);
	gather_from(g, bio, index, bytes_done(bio));
	PEEK(g->bio_left, bio->bi_iter.bi_size);
}

/* One copy; 0 when there is nothing more to do. */
__noinline int gather_step(u32 slot)
{
	struct gathering *g = bpf_map_lookup_elem(&gatherings, &slot);
	struct layout *layout = the_layout();
	struct cbt_vec vec = {};
	u32 n, at;
	u64 page;

	if (!g || !layout || !g->left)
		return 0;
	if (!g->bio_left) {
		struct bio *next = 0;

		PEEK(next, ((struct bio *)g->bio)->bi_next);
		if (!next)
			return 0;
		gather_bio(g, next);
		return g->bio_left != 0;
	}
	if (!g->filled) {
		n = BLOCK_BYTES -
		    (((u32)g->sector - grid_sectors) % BLOCK_SECTORS << SECTOR_SHIFT);
		g->piece = n < g->left ? n : g->left;
	}
	PEEK(vec, *(struct cbt_vec *)(g->vecs + (u64)g->index * sizeof(vec)));
	n = g->piece - g->filled;
	if (n > g->bio_left)
		n = g->bio_left;
	if (vec.bv_len <= g->done)
		return 0;
	if (n > vec.bv_len - g->done)
		n = vec.bv_len - g->done;
	page = (vec.bv_page - layout->vmemmap_base) >> PAGE_STRUCT_SHIFT << PAGE_SHIFT;
	page += layout->page_offset_base;
	at = g->filled;
	asm volatile("" : "+r"(at), "+r"(n));
	at &= BLOCK_BYTES - 1;
	n = ((n - 1) & (BLOCK_BYTES - 1)) + 1;
	if (bpf_probe_read_kernel(g->buffer + at, n, (void *)(page + vec.bv_offset + g->done)))
		g->faults++;
	g->done += n;
	if (g->done >= vec.bv_len) {
		g->done = 0;
		g->index++;
	}
	g->filled += n;
	g->bio_left -= n;
	g->left -= n;
	if (g->filled >= g->piece)
		gather_hash(slot);
	return 1;
}

__noinline int gather_steps(u32 slot)
{
	u32 i;

	for (i = 0; i < STEPS; i++)
		if (!gather_step(slot))
			return 0;
	return 1;
}

/* Fingerprints all that is left; 0 if something could not be read. */
static __always_inline int gather_all(struct gathering *g, u32 slot)
{
	u32 i;

	for (i = 0; i < STEPS; i++)
		if (!gather_steps(slot))
			break;
	if (g->left || g->filled)
		g->faults++;
	if (!g->keep)
		gather_send(slot);
	return !g->faults;
}

/*
 * Begins to gather in the first buffer that is free from *slot on, which is set to it; nothing if there is
 * none. Where the kernel has a guard against recursion, that is the first. Up to 5.10 it has none: a bio that
 * is completed in a thread may be interrupted by one that is completed there, for which the same program runs.
 */
static __always_inline struct gathering *gather_begin(u32 *slot, u32 chance,
						      const struct found *found)
{
	u32 bytes = found->bytes;
	u64 sector = found->sector;
	struct gathering *g = 0;
	u32 level;

#pragma clang loop unroll(full)
	for (level = 0; level < CHANCES; level++) {
		if (level < chance)
			continue;
		g = bpf_map_lookup_elem(&gatherings, slot);
		if (!g || !g->busy)
			break;
		g = 0;
		++*slot;
	}
	if (!g)
		return 0;
	g->busy = 1;
	g->object = found->object;
	g->disk = found->disk;
	g->opf = found->opf;
	g->sector = sector;
	g->left = bytes;
	g->filled = 0;
	g->faults = 0;
	g->out.count = 0;
	/* One piece: its fingerprint goes into the event itself. */
	g->keep = bytes + (((u32)sector - grid_sectors) % BLOCK_SECTORS << SECTOR_SHIFT) <=
		  BLOCK_BYTES;
	return g;
}

static __always_inline void gather_end(struct gathering *g)
{
	g->busy = 0;
}

#endif
