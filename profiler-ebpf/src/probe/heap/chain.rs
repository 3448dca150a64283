//! Blocks that are resized again and again: how often, from which size to which, and how many bytes were copied on the way.

use profiler_common::heap::{Block, Chain, ChainSum};
use profiler_common::stats::Stat;

use super::add_to;
use crate::maps::CHAIN_SUMS;
use crate::stats::count;

/// Adds up that a followed block was given `size` bytes, at another address if it `moved`; returns the chain that it is part of from now on.
#[inline(always)]
pub(super) fn resized(block: &Block, size: u64, moved: bool) -> Chain {
    let before = block.chain;
    if before.steps == Chain::UNKNOWN {
        return before;
    }
    let begins = before.steps == 0;
    let (number, weight) = if begins { (block.number, block.weight) } else { (before.number, before.weight) };
    let chain = Chain { number, weight, steps: before.steps.wrapping_add(1) };
    let Some(sum) = sum_of(number) else { return chain };
    // SAFETY: only the addresses of fields are taken; the last field is a plain word that grows, and a smaller value that another CPU writes at the
    // same time costs one step of it.
    unsafe {
        add_to(&raw mut (*sum).steps, weight);
        if begins {
            add_to(&raw mut (*sum).chains, weight);
            add_to(&raw mut (*sum).followed, 1);
            add_to(&raw mut (*sum).first_bytes, block.size.wrapping_mul(weight));
            add_to(&raw mut (*sum).last_bytes, size.wrapping_mul(weight));
        } else {
            // It was added with the size that it had until now.
            add_to(&raw mut (*sum).last_bytes, size.wrapping_sub(block.size).wrapping_mul(weight));
        }
        if moved {
            let copied = if block.size < size { block.size } else { size };
            add_to(&raw mut (*sum).moves, weight);
            add_to(&raw mut (*sum).moved_bytes, copied.wrapping_mul(weight));
        }
        if (*sum).longest < chain.steps {
            (*sum).longest = chain.steps;
        }
    }
    chain
}

/// The entry of a stack, made if need be.
#[inline(always)]
fn sum_of(number: u64) -> Option<*mut ChainSum> {
    if let Some(sum) = CHAIN_SUMS.get_ptr_mut(number) {
        return Some(sum);
    }
    let new = ChainSum {
        chains: 0,
        followed: 0,
        steps: 0,
        longest: 0,
        first_bytes: 0,
        last_bytes: 0,
        moved_bytes: 0,
        moves: 0,
    };
    /// `BPF_NOEXIST`: another CPU may just have made it.
    const NO_EXIST: u64 = 1;
    let _exists_already = CHAIN_SUMS.insert(number, new, NO_EXIST);
    let sum = CHAIN_SUMS.get_ptr_mut(number);
    if sum.is_none() {
        count(Stat::ChainSumsFull);
    }
    sum
}
