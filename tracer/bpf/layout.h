/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where this kernel maps all memory, and where it keeps its `struct page`s:
 * both bases are random, and many kernels do not tell them. The recorder runs
 * `find_layout` in its own context, with a page of random content in a pipe.
 *
 * The top page table lies in the map of all memory, which begins at a multiple
 * of 1 GiB not far below. Each such place is tried: if it is the right one, the
 * page tables lead from there to the page with the known content, and to its
 * frame number. The pipe knows the address of the page's `struct page`.
 */
#ifndef COWBIRD_BPF_LAYOUT_H
#define COWBIRD_BPF_LAYOUT_H

#define PAGE_SHIFT 12
#define PAGE_STRUCT_SHIFT 6 /* checked by the loader */
#define GIB_SHIFT 30
#define MAX_GIB 4096 /* of physical address space */
#define FRAME_MASK 0x000ffffffffff000ULL
#define ENTRY_PRESENT 1
#define ENTRY_HUGE 128
#define LOWEST_4_LEVEL 0xffff800000000000ULL

struct layout {
	/* From the recorder. */
	u64 address; /* of the page in its memory */
	u64 content[2]; /* its first 16 bytes */
	u32 pipe; /* descriptor of the pipe's end for reading */
	u32 found;
	/* The answer, for bpf/prints.h. */
	u64 page_offset_base;
	u64 vmemmap_base;
	/* In between. */
	u64 top; /* the top page table */
	u64 frame; /* physical address of the page */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct layout);
} layouts SEC(".maps");

static __always_inline struct layout *the_layout(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&layouts, &zero);
}

/* Whether all memory is mapped from `base` on; notes the frame of the known page. */
__noinline int layout_fits(u64 base)
{
	struct layout *layout = the_layout();
	u64 table, entry = 0, content[2] = {};
	int level;

	if (!layout)
		return 0;
	table = layout->top;
	for (level = 5; level > 0; level--) {
		u32 at = layout->address >> (PAGE_SHIFT + 9 * (level - 1)) & 511;

		if (level == 5 && layout->top >= LOWEST_4_LEVEL)
			continue;
		if (bpf_probe_read_kernel(&entry, sizeof(entry), (void *)(table + at * 8)))
			return 0;
		if (!(entry & ENTRY_PRESENT) || (level > 1 && entry & ENTRY_HUGE))
			return 0;
		table = base + (entry & FRAME_MASK);
	}
	if (bpf_probe_read_kernel(content, sizeof(content), (void *)table))
		return 0;
	layout->frame = entry & FRAME_MASK;
	return content[0] == layout->content[0] && content[1] == layout->content[1];
}

static __always_inline u64 page_in_pipe(struct task_struct *task, u32 descriptor)
{
	struct files_struct *files = 0;
	struct fdtable *table = 0;
	struct file **slots = 0, *file = 0;
	struct pipe_inode_info *pipe = 0;
	struct pipe_buffer *buffer = 0;
	void *page = 0;

	PEEK(files, task->files);
	PEEK(table, files->fdt);
	PEEK(slots, table->fd);
	PEEK(file, slots[descriptor]);
	PEEK(pipe, file->private_data);
	PEEK(buffer, pipe->bufs);
	PEEK(page, buffer->page);
	return (u64)page;
}

SEC("raw_tp") int find_layout(void *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct layout *layout = the_layout();
	struct mm_struct *mm = 0;
	void *top = 0;
	u64 base, page;
	u32 gib;

	if (!layout)
		return 0;
	PEEK(mm, task->mm);
	PEEK(top, mm->pgd);
	page = page_in_pipe(task, layout->pipe);
	if (!top || !page)
		return 0;
	layout->top = (u64)top;
	base = (u64)top >> GIB_SHIFT << GIB_SHIFT;
	for (gib = 0; gib < MAX_GIB; gib++) {
		if (layout_fits(base)) {
			layout->page_offset_base = base;
			layout->vmemmap_base =
				page - (layout->frame >> PAGE_SHIFT << PAGE_STRUCT_SHIFT);
			layout->found = 1;
			return 0;
		}
		base -= 1ULL << GIB_SHIFT;
	}
	return 0;
}

#endif
