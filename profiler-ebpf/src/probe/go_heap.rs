//! Allocations of Go programs, which have an allocator of their own.
//!
//! Go chooses blocks for its own heap profile, one in 512 KiB by default, and takes a slow path for them: a probe there costs the program next to
//! nothing. Where a program chooses none, every call is probed. Go moves stacks, return addresses included, so no probe stands at a return.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_get_attach_cookie, bpf_get_prandom_u32};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_probe_read_user};
use aya_ebpf::programs::ProbeContext;
use profiler_common::heap::{
    CALL_GO_FREE, CALL_GO_SAMPLED, GO_RATE, Site, WEIGHT_BITS, go_block, stands_for,
};
use profiler_common::stats::Stat;

use super::heap::{Wanted, add_calls, follows_blocks, rate_of, release, take_stack};
use crate::context::{argument_word, grows_stack, instruction_pointer, stack_pointer};
use crate::kernel::{current_ids, in_scope};
use crate::maps::HEAP_CONTROL;
use crate::scratch::BLOCK_UNKNOWN;
use crate::stats::count;

pub(crate) fn entered(ctx: &ProbeContext) -> u32 {
    let Some(control) = HEAP_CONTROL.get_ptr(0) else { return 0 };
    // SAFETY: plain words, which the agent replaces between slices.
    let (counting, stacks) = unsafe { ((*control).counting, (*control).stacks) };
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
    if site.is_growing() && grows_stack(ctx) {
        return 0;
    }
    let a = argument_word(ctx, site.argument(0));
    if site.kind() == CALL_GO_FREE {
        if follows_blocks() {
            release(ids.pid, a);
        }
        return 0;
    }
    let (size, weight, block, chosen) = if site.kind() == CALL_GO_SAMPLED {
        let size = argument_word(ctx, site.argument(1));
        let weight = weight_of(ctx, site, size);
        if weight == 0 {
            return 0;
        }
        add_calls(size, whole(weight));
        (size, weight, go_block(a, size), 1)
    } else {
        let rate = rate_of(add_calls(a, 1));
        // SAFETY: no preconditions.
        let taken = u64::from(unsafe { bpf_get_prandom_u32() } as u32) < rate.threshold;
        (a, if taken { rate.weight } else { 0 }, BLOCK_UNKNOWN, 0)
    };
    count(Stat::HeapCalls);
    if weight != 0 && stacks != 0 {
        let stack = stack_pointer(ctx).wrapping_add(site.pushed_words() * 8);
        let owner = bpf_get_current_pid_tgid() as u32;
        take_stack(ctx, ids, owner, Wanted { site, key: owner, stack, size, weight, block, chosen });
    }
    0
}

/// What a block that Go chose stands for; zero where it does not choose any more.
#[inline(always)]
fn weight_of(ctx: &ProbeContext, site: Site, size: u64) -> u64 {
    let distance = site.rate_distance();
    let mut rate = GO_RATE;
    if distance != 0 {
        let word = instruction_pointer(ctx).wrapping_add_signed(distance);
        // SAFETY: the helper checks the address itself and reports a fault as an error.
        rate = unsafe { bpf_probe_read_user(word as *const u64) }.unwrap_or(GO_RATE);
    }
    if rate == 0 || rate.cast_signed() < 0 {
        return 0;
    }
    stands_for(size, rate)
}

/// A weight without its fraction: rounded up as often as the fraction says, so that sums stay right.
#[inline(always)]
fn whole(weight: u64) -> u64 {
    // SAFETY: no preconditions.
    let random = unsafe { bpf_get_prandom_u32() } as u64;
    (weight + (random & ((1 << WEIGHT_BITS) - 1))) >> WEIGHT_BITS
}
