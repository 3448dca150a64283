//! Calls of an allocator: how much memory is asked for, by whom, and what becomes of it.
//!
//! Probes in user code: the context is the thread's user registers. The kernel keeps such a program on its CPU but may preempt it, so the
//! scratch says who uses it, and sums are added to atomically.

mod chain;
mod role;

use core::arch::asm;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_get_attach_cookie, bpf_get_prandom_u32};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_probe_read_user};
use aya_ebpf::programs::{ProbeContext, RetProbeContext};
use profiler_common::config::ARCH_X86_64;
use profiler_common::heap::{
    ALL_SIZES, BRIEF_NS, Block, BlockKey, CALL_ARRAY, CALL_FREE, CALL_RESIZE, CALL_RESIZE_ARRAY, CALL_STORE,
    Chain, HeapSum, RATES, Rate, Site, WEIGHT_BITS,
};
use profiler_common::histogram::bucket_of;
use profiler_common::limits::CHAIN_HEAP;
use profiler_common::off_cpu::{mix, stack_number};
use profiler_common::stats::Stat;
use profiler_common::unwind::KNOWN_RBX;

use self::chain::resized;
use self::role::{returning, role_of, thread_of};
use super::off_cpu::stack::{hash_frames, hash_header, remember, was_sent};
use crate::collect::{Next, begin};
use crate::context::{register_word, returned, stack_pointer};
use crate::emit::{add_kernel_stack, has_copy, has_room_for_copies, send};
use crate::kernel::{TaskIds, current_ids, in_scope};
use crate::maps::{BLOCKS, HEAP_CONTROL, HEAP_RATES, HEAP_SIZES, HEAP_SUMS, HEAP_THREADS, WALK_HEAP, config};
use crate::scratch::{BLOCK_RETURNED, BLOCK_UNKNOWN, Scratch, opaque, put_user_frame, scratch};
use crate::stats::{add, count};
use crate::unwind::{Round, walk_on};

/// Of a block that is not resized.
const NO_CHAIN: Chain = Chain { number: 0, weight: 0, steps: 0 };

pub(crate) fn entered(ctx: &ProbeContext) -> u32 {
    let Some(control) = HEAP_CONTROL.get_ptr(0) else { return 0 };
    // SAFETY: plain words, which the agent replaces between slices.
    let (counting, stacks, slice) = unsafe { ((*control).counting, (*control).stacks, (*control).slice) };
    if counting == 0 {
        return 0;
    }
    let ids = current_ids();
    if !in_scope(ids) {
        return 0;
    }
    // SAFETY: the context is the program's own.
    let site = Site(unsafe { bpf_get_attach_cookie(ctx.as_ptr()) });
    if site.is_stepped() {
        count(Stat::HeapStepped);
    }
    let stack = stack_pointer(ctx).wrapping_add(site.pushed_words() * 8);
    let owner = bpf_get_current_pid_tgid() as u32;
    let Some(role) = role_of(owner, stack, slice) else { return 0 };
    let a = register_word(ctx, site.argument(0));
    if site.kind() == CALL_FREE {
        if a != 0 {
            count(Stat::HeapFrees);
            if follows_blocks() {
                count_known(release(ids.pid, a).map_or(0, |block| block.weight));
            }
        }
        return 0;
    }
    let size = size_of_call(ctx, site, a);
    count(Stat::HeapCalls);
    let bucket = add_size(size);
    let rate = rate_of(bucket);
    // SAFETY: no preconditions.
    let taken = stacks != 0 && u64::from(unsafe { bpf_get_prandom_u32() } as u32) < rate.threshold;
    if site.encloses() || (taken && follows_blocks()) {
        let pointer =
            if site.kind() == CALL_RESIZE || site.kind() == CALL_RESIZE_ARRAY || site.kind() == CALL_STORE {
                a
            } else {
                0
            };
        let Some(thread) = thread_of(role.key) else { return 0 };
        // SAFETY: the thread's own entry, here and below.
        unsafe {
            (*thread).size = size;
            (*thread).pointer = pointer;
            (*thread).number = 0;
            (*thread).kind = site.kind() as u32;
            (*thread).bucket = bucket;
            (*thread).encloses = u16::from(site.encloses());
            (*thread).slice = slice;
            (*thread).turn = role.turn.unwrap_or((*thread).turn.wrapping_add(1));
            (*thread).stack = stack;
        }
    }
    if taken {
        let (key, weight) = (role.key, rate.weight);
        take_stack(
            ctx,
            ids,
            owner,
            Wanted { site, key, stack, size, weight, block: BLOCK_RETURNED, chosen: 0 },
        );
    }
    0
}

/// Bytes that a call asks for. What does not fit a word gets no memory.
#[inline(always)]
fn size_of_call(ctx: &ProbeContext, site: Site, a: u64) -> u64 {
    if site.kind() == CALL_ARRAY {
        return a.wrapping_mul(register_word(ctx, site.argument(1)));
    }
    if site.kind() == CALL_RESIZE || site.kind() == CALL_STORE {
        return register_word(ctx, site.argument(1));
    }
    if site.kind() == CALL_RESIZE_ARRAY {
        return register_word(ctx, site.argument(1)).wrapping_mul(register_word(ctx, site.argument(2)));
    }
    a
}

/// Counts the call by its size; returns the size's bucket.
#[inline(always)]
fn add_size(size: u64) -> u16 {
    add_calls(size, 1)
}

/// Counts so many calls by their size; returns the size's bucket.
#[inline(always)]
pub(super) fn add_calls(size: u64, calls: u64) -> u16 {
    let bucket = bucket_of(size);
    for index in [u32::from(bucket), ALL_SIZES] {
        if let Some(sum) = HEAP_SIZES.get_ptr_mut(index) {
            // SAFETY: this CPU's entry.
            unsafe {
                (*sum).count = (*sum).count.wrapping_add(calls);
                (*sum).bytes = (*sum).bytes.wrapping_add(size.wrapping_mul(calls));
            }
        }
    }
    bucket
}

#[inline(always)]
pub(super) fn rate_of(bucket: u16) -> Rate {
    let mut index = u64::from(bucket);
    opaque(&mut index);
    if index >= u64::from(RATES) {
        return Rate { threshold: 0, weight: 0 };
    }
    // SAFETY: plain words, which the agent replaces one entry at a time.
    HEAP_RATES.get_ptr(index as u32).map_or(Rate { threshold: 0, weight: 0 }, |rate| unsafe { *rate })
}

#[inline(always)]
pub(super) fn follows_blocks() -> bool {
    // SAFETY: a single word, which the agent replaces as a whole.
    HEAP_CONTROL.get_ptr(0).is_some_and(|control| unsafe { (*control).live } != 0)
}

/// What the stack is taken for.
pub(super) struct Wanted {
    pub(super) site: Site,
    /// The entry of the thread.
    pub(super) key: u32,
    /// Where the return address lies.
    pub(super) stack: u64,
    pub(super) size: u64,
    /// See the fields of these names in [`crate::scratch::WalkState`].
    pub(super) weight: u64,
    pub(super) block: u64,
    pub(super) chosen: u64,
}

/// Walks the thread's stack for an allocation.
#[inline(always)]
pub(super) fn take_stack(ctx: &ProbeContext, ids: TaskIds, owner: u32, wanted: Wanted) {
    let Some(scratch) = scratch(CHAIN_HEAP) else {
        count(Stat::NoScratch);
        return;
    };
    // SAFETY: this CPU's scratch; whoever was preempted while it used it is named there, and this thread goes without.
    let next = unsafe {
        if (*scratch).walk.busy != 0 && (*scratch).walk.busy != u64::from(owner) + 1 {
            count(Stat::HeapScratchBusy);
            return;
        }
        (*scratch).walk.busy = u64::from(owner) + 1;
        count(Stat::HeapStacks);
        let next = begin(ctx, scratch, ids, 0);
        (*scratch).walk.owner = wanted.key;
        (*scratch).walk.size = wanted.size;
        (*scratch).walk.weight = wanted.weight;
        (*scratch).walk.block = wanted.block;
        (*scratch).walk.chosen = wanted.chosen;
        if wanted.site.pushed_words() == 0 {
            step_to_caller(scratch, wanted.stack);
        }
        next
    };
    if let Next::Walk = next {
        // SAFETY: the table holds programs of this type only. Returning means that the kernel refused.
        unsafe { WALK_HEAP.tail_call(ctx, 0) };
    }
    finish(ctx);
}

/// Takes the first step of a walk that begins before the function has touched its stack: no table is needed for that, and some allocators have
/// none.
///
/// # Safety
///
/// `scratch` is this CPU's, after [`begin`].
#[inline(always)]
unsafe fn step_to_caller(scratch: *mut Scratch, stack: u64) {
    // SAFETY: valid by the caller; the helper checks the address itself.
    unsafe {
        if (*scratch).walk.frames != 1 {
            return;
        }
        let registers = &raw mut (*scratch).walk.registers;
        let (caller, above) = if config!(arch) == ARCH_X86_64 {
            (bpf_probe_read_user(stack as *const u64).unwrap_or(0), stack.wrapping_add(8))
        } else {
            ((*registers).lr & config!(code_mask), stack)
        };
        if caller == 0 || !put_user_frame(scratch, 1, caller) {
            return;
        }
        (*registers).ip = caller;
        (*registers).sp = above;
        (*registers).known = KNOWN_RBX;
        (*scratch).walk.frames = 2;
    }
}

pub(crate) fn walk(ctx: &ProbeContext) -> u32 {
    let Some(scratch) = scratch(CHAIN_HEAP) else { return 0 };
    // SAFETY: this CPU's scratch; the chain that led here filled it.
    if let Round::Unfinished = unsafe { walk_on(scratch) } {
        // SAFETY: as in `take_stack`.
        unsafe { WALK_HEAP.tail_call(ctx, 0) };
    }
    finish(ctx);
    0
}

/// Numbers the stack, sends it if it is new, and adds the call up or, where blocks are followed, leaves that to its return.
#[inline(always)]
fn finish(ctx: &ProbeContext) {
    let Some(scratch) = scratch(CHAIN_HEAP) else { return };
    // SAFETY: this CPU's scratch, with a finished walk, here and below.
    let Some(frames) = (unsafe { add_kernel_stack(ctx, scratch) }) else { return };
    let hash = unsafe { hash_frames(scratch) };
    let copy = unsafe { has_copy(scratch) } && has_room_for_copies();
    let number = unsafe {
        let hash = hash_header(scratch, hash);
        let hash = mix(hash, u64::from((*scratch).header.tid));
        // A stack that user space finishes is like no other: those that begin alike may go on differently.
        let number = stack_number(if copy { mix(hash, (*scratch).header.time_ns) } else { hash });
        (*scratch).header.number = number;
        number
    };
    if copy || !was_sent(number) {
        // SAFETY: as above; a copy is sent by nobody else.
        if unsafe { send(scratch, frames, copy) } {
            if !copy {
                remember(number);
            }
        } else {
            count(Stat::HeapStackLost);
        }
    }
    // SAFETY: as above. From the last line on the scratch is another thread's.
    let (owner, pid, size, weight, block, chosen) = unsafe {
        let walk = &raw const (*scratch).walk;
        let of = (
            (*walk).owner,
            (*scratch).header.pid,
            (*walk).size,
            (*walk).weight,
            (*walk).block,
            (*walk).chosen,
        );
        (*scratch).walk.busy = 0;
        of
    };
    if follows_blocks() && block == BLOCK_RETURNED {
        if let Some(thread) = HEAP_THREADS.get_ptr_mut(owner) {
            // SAFETY: the thread's own entry.
            unsafe { (*thread).number = number };
        }
        return;
    }
    if follows_blocks() && block != BLOCK_UNKNOWN {
        keep(pid, block, size, number, weight, chosen, NO_CHAIN);
        return;
    }
    let Some(sum) = sum_of(number) else { return };
    add_call(sum, size, weight, chosen);
    if follows_blocks() {
        add_unfollowed(sum, size, weight);
    }
}

/// The entry of a stack, made if need be.
#[inline(always)]
fn sum_of(number: u64) -> Option<*mut HeapSum> {
    if let Some(sum) = HEAP_SUMS.get_ptr_mut(number) {
        return Some(sum);
    }
    let new = HeapSum {
        taken: 0,
        uncertain: 0,
        objects: 0,
        bytes: 0,
        freed_objects: 0,
        freed_bytes: 0,
        brief_objects: 0,
        unfollowed_bytes: 0,
        unfollowed_objects: 0,
        chosen: 0,
    };
    /// `BPF_NOEXIST`: another CPU may just have made it.
    const NO_EXIST: u64 = 1;
    let _exists_already = HEAP_SUMS.insert(number, new, NO_EXIST);
    let sum = HEAP_SUMS.get_ptr_mut(number);
    if sum.is_none() {
        count(Stat::HeapSumsFull);
    }
    sum
}

/// Adds to a word that other CPUs add to as well.
#[inline(always)]
pub(super) fn add_to(word: *mut u64, amount: u64) {
    // In assembly, because the target has no compare-and-swap and the library then offers no atomic addition either.
    // SAFETY: a word of a map's value, aligned; the kernel keeps the value while the program runs.
    unsafe {
        asm!("lock *(u64 *)({word} + 0) += {amount}", word = in(reg) word, amount = in(reg) amount, options(nostack))
    };
}

#[inline(always)]
fn add_call(sum: *mut HeapSum, size: u64, weight: u64, chosen: u64) {
    // SAFETY: only the addresses of fields are taken.
    unsafe {
        add_to(&raw mut (*sum).taken, 1);
        if weight != 1 << WEIGHT_BITS {
            add_to(&raw mut (*sum).uncertain, 1);
        }
        add_to(&raw mut (*sum).objects, weight);
        add_to(&raw mut (*sum).bytes, size.wrapping_mul(weight));
        add_to(&raw mut (*sum).chosen, chosen);
    }
}

/// Nobody will know what becomes of a block.
#[inline(always)]
fn add_unfollowed(sum: *mut HeapSum, size: u64, weight: u64) {
    // SAFETY: only the addresses of fields are taken.
    unsafe {
        add_to(&raw mut (*sum).unfollowed_bytes, size.wrapping_mul(weight));
        add_to(&raw mut (*sum).unfollowed_objects, weight);
    }
}

/// A block is freed: its stack's sum hears of it. Returns what was known of it.
#[inline(always)]
pub(super) fn release(pid: u32, address: u64) -> Option<Block> {
    let key = BlockKey { address, pid, padding: 0 };
    let block = BLOCKS.get_ptr(key)?;
    // SAFETY: the block belongs to this thread now, which frees it; nobody else writes the entry.
    let block = unsafe { *block };
    let _cannot_fail = BLOCKS.remove(key);
    if block.weight == 0 {
        return Some(block);
    }
    let Some(sum) = HEAP_SUMS.get_ptr_mut(block.number) else { return Some(block) };
    // SAFETY: only the addresses of fields are taken; the clock has no preconditions.
    unsafe {
        add_to(&raw mut (*sum).freed_objects, block.weight);
        add_to(&raw mut (*sum).freed_bytes, block.size.wrapping_mul(block.weight));
        if bpf_ktime_get_ns().wrapping_sub(block.since_ns) < BRIEF_NS {
            add_to(&raw mut (*sum).brief_objects, block.weight);
        }
    }
    Some(block)
}

/// Counts the free of a block that was followed: what is left of all frees is those of blocks that nobody saw allocated.
#[inline(always)]
fn count_known(weight: u64) {
    if weight == 0 {
        return;
    }
    add(Stat::HeapFreesKnown, weight);
    let root = (weight >> (WEIGHT_BITS / 2)).min(u64::from(u32::MAX));
    add(Stat::HeapFreesKnownSquares, root * root);
}

pub(crate) fn left(ctx: &RetProbeContext) -> u32 {
    let owner = bpf_get_current_pid_tgid() as u32;
    let (result, stack) = returned(ctx);
    let Some(thread) = returning(owner, stack) else {
        // The return of an inner call, or of one that is not followed.
        forget_reused(result);
        return 0;
    };
    // SAFETY: the thread's own entry.
    let (size, pointer, number, kind, bucket) = unsafe {
        (*thread).stack = 0;
        ((*thread).size, (*thread).pointer, (*thread).number, u64::from((*thread).kind), (*thread).bucket)
    };
    let mut address = result;
    let pid = current_ids().pid;
    if kind == CALL_STORE {
        // SAFETY: the helper checks the address itself and reports a fault as an error.
        let stored = unsafe { bpf_probe_read_user(pointer as *const u64) };
        address = if result == 0 { stored.unwrap_or(0) } else { 0 };
    }
    if !follows_blocks() {
        return 0;
    }
    let mut chain = NO_CHAIN;
    if (kind == CALL_RESIZE || kind == CALL_RESIZE_ARRAY) && pointer != 0 && (address != 0 || size == 0) {
        let resizes = address != 0 && size != 0;
        match release(pid, pointer) {
            Some(block) if resizes => chain = resized(&block, size, address != pointer),
            _ => chain.steps = Chain::UNKNOWN,
        }
    }
    if address == 0 {
        if size != 0 {
            count(Stat::HeapFailed);
        }
        return 0;
    }
    if number != 0 {
        keep(pid, address, size, number, rate_of(bucket).weight, 0, chain);
        return 0;
    }
    forget_reused(address);
    if chain.steps != 0 && chain.steps != Chain::UNKNOWN {
        // SAFETY: no preconditions.
        let since_ns = unsafe { bpf_ktime_get_ns() };
        follow(pid, address, Block { number: 0, size, since_ns, weight: 0, chain });
    }
    0
}

/// A block from before this time slice whose address is handed out again was freed while nobody looked.
#[inline(always)]
fn forget_reused(address: u64) {
    let Some(control) = HEAP_CONTROL.get_ptr(0) else { return };
    // SAFETY: plain words, which the agent replaces between slices.
    let since_ns = unsafe { (*control).since_ns };
    if since_ns == 0 {
        return;
    }
    let pid = current_ids().pid;
    let Some(block) = BLOCKS.get_ptr(BlockKey { address, pid, padding: 0 }) else { return };
    // SAFETY: the block is handed out to this thread; nobody else writes the entry.
    if unsafe { (*block).since_ns } < since_ns {
        count(Stat::BlocksReused);
        release(pid, address);
    }
}

/// Adds a call up and follows its block.
#[inline(always)]
fn keep(pid: u32, address: u64, size: u64, number: u64, weight: u64, chosen: u64, chain: Chain) {
    let key = BlockKey { address, pid, padding: 0 };
    if BLOCKS.get_ptr(key).is_some() {
        // What is handed out again has been freed.
        count(Stat::BlocksReused);
        release(pid, address);
    }
    let Some(sum) = sum_of(number) else { return };
    add_call(sum, size, weight, chosen);
    // SAFETY: no preconditions.
    let since_ns = unsafe { bpf_ktime_get_ns() };
    if !follow(pid, address, Block { number, size, since_ns, weight, chain }) {
        add_unfollowed(sum, size, weight);
    }
}

/// Follows a block until it is freed; false where the table is full.
#[inline(always)]
fn follow(pid: u32, address: u64, block: Block) -> bool {
    let key = BlockKey { address, pid, padding: 0 };
    let is_followed = BLOCKS.insert(key, block, 0).is_ok();
    if !is_followed {
        count(Stat::BlocksFull);
    }
    is_followed
}
