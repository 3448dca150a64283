//! Waits: what a thread does not run, from the switch away from it to the switch back.
//!
//! One program sees both ends. At the beginning of a wait it may take the stack, which is what costs; at the end it adds the wait up in
//! [`WAITS`] by the number of that stack, so that nothing crosses to user space per switch. Each distinct stack is sent once.
//!
//! [`stack`] takes the stacks; [`passing`] has the waits that the budget leaves no room to follow. Both tracepoints run with interrupts off, so none of these programs interrupts another one of them on its CPU.

mod passing;
pub(crate) mod stack;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_prandom_u32, bpf_ktime_get_ns};
use aya_ebpf::programs::RawTracePointContext;
use profiler_common::limits::{CHAIN_SWITCH, CHAIN_WAKE, MAX_WAIT_PLACES};
use profiler_common::off_cpu::{
    BRAKE_STACKS, BRAKE_THRESHOLD_NS, BRAKE_WINDOW_NS, BRIEF_WAIT_NS, FIRST_SHIFT, SHIFT_CHANCE,
    SHIFT_PASSING, SHIFT_SLICES, STACK_NONE, STACK_SKIPPED, STATE_ESTIMATED, STATE_PASSED, STATE_RAN,
    STATE_RUNNABLE, STATE_THINNED, STATE_UNSETTLED, SwitchControl, Thread, WaitKey, WaitSum, is_slice_open,
    mix, shift_of, slices_shift, state_of, usual_after, weight_shift,
};
use profiler_common::stats::Stat;

use crate::context::entry_instruction;
use crate::kernel::{current_ids, current_task, in_scope, read_field};
use crate::maps::{
    OFF_CPU_THREADS, PACE, SWITCH_CONTROL, USUAL_WAITS, WAITS, WALK_SWITCH, WALK_WAKE, config,
};
use crate::scratch::opaque;
use crate::stats::{add, count};
use stack::take_stack;
pub(crate) use stack::{grant_copy, walk_switch, walk_wake};

/// `trace_sched_switch(preempt, prev, next, prev_state)` runs in `prev` (kernel/sched/core.c); the last argument came with 5.18.
pub(crate) fn switched(ctx: &RawTracePointContext) -> i32 {
    let Some(control) = Control::get() else { return 0 };
    if control.is_paused() {
        return 0;
    }
    let args = ctx.as_ptr().cast::<u64>();
    // SAFETY: this tracepoint has these arguments; the verifier checks the loads.
    let (preempted, previous) = unsafe { (*args & 0xff != 0, *args.add(1)) };
    let state = state_of(preempted, left_bits(ctx, previous));
    count(Stat::Switches);
    let owner = bpf_get_current_pid_tgid() as u32;
    let next = read_field::<u32>(arriving(ctx), config!(offsets.task_pid)).unwrap_or(0);
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let (mut has_left, mut has_arrived) = (owner == 0, next == 0);
    if !control.is_open(now)
        && let Some(state) = state
    {
        has_arrived = has_arrived || passing::end_brief(next, now);
        if !has_left && passing::let_pass_again(owner, state, now) {
            count(Stat::WaitsPassed);
            has_left = true;
        }
        if has_left && has_arrived {
            return 0;
        }
    }
    ran_until(now);
    if !has_arrived {
        arrive(ctx, next, now);
    }
    match state {
        _ if has_left => {}
        Some(state) => leave(ctx, owner, state, now, control),
        None => end(owner),
    }
    0
}

/// What the agent says: a pointer, since a copy would take a tenth of the stack.
#[derive(Clone, Copy)]
struct Control(*const SwitchControl);

impl Control {
    #[inline(always)]
    fn get() -> Option<Self> {
        SWITCH_CONTROL.get_ptr(0).map(Self)
    }

    #[inline(always)]
    fn threshold_ns(self) -> u64 {
        // SAFETY: a map's value, whose words the agent replaces as wholes, here and below.
        unsafe { (*self.0).threshold_ns }
    }

    #[inline(always)]
    fn is_passing(self) -> bool {
        unsafe { (*self.0).passing != 0 }
    }

    #[inline(always)]
    fn is_paused(self) -> bool {
        unsafe { (*self.0).paused != 0 }
    }

    #[inline(always)]
    fn slices_shift(self) -> u16 {
        unsafe { (*self.0).slices_shift }
    }

    #[inline(always)]
    fn began_ns(self) -> u64 {
        unsafe { (*self.0).began_ns }
    }

    /// Whether brief waits that begin now may be drawn.
    #[inline(always)]
    fn is_open(self, now: u64) -> bool {
        self.slices_shift() == 0 || is_slice_open(now, self.slices_shift(), self.began_ns())
    }
}

/// The current thread ran until `now`. Called at each switch and at each tick of the sampler, so that a thread that keeps its CPU is
/// behind by a tick at most.
#[inline(always)]
pub(crate) fn ran_until(now: u64) {
    if config!(switch.runs) == 0 {
        return;
    }
    let Some(pace) = PACE.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's own, with interrupts off.
    let since = unsafe { (*pace).ran_until_ns };
    unsafe { (*pace).ran_until_ns = now };
    if bpf_get_current_pid_tgid() as u32 == 0 {
        return;
    }
    let since = if since == 0 { began_ns() } else { since };
    let ids = current_ids();
    if since == 0 || since >= now || !in_scope(ids) {
        return;
    }
    let key = WaitKey {
        stack: STACK_NONE,
        waker: STACK_NONE,
        pid: ids.pid,
        tid: ids.tid,
        state: STATE_RAN,
        epoch: epoch(),
    };
    add_up(&key, &WaitSum { count: 0, blocked_ns: now - since, queued_ns: 0 });
}

/// The state in which `previous` leaves its CPU at `sched_switch`, in the kernel's bits.
#[inline(always)]
pub(crate) fn left_bits(ctx: &RawTracePointContext, previous: u64) -> u32 {
    if config!(switch.has_state_argument) != 0 {
        // SAFETY: this kernel's tracepoint has a fourth argument; the verifier checks the load.
        unsafe { *ctx.as_ptr().cast::<u64>().add(3) as u32 }
    } else {
        read_field(previous, config!(switch.task_state)).unwrap_or(0)
    }
}

/// A wait that is over.
struct Ended {
    since: u64,
    woken: u64,
    stack: u64,
    waker: u64,
    place: u32,
    pid: u32,
    tid: u32,
    state: u32,
    shift: u32,
    /// The entry of a thread that is followed; null for a wait that passed.
    thread: *mut Thread,
}

/// The thread `owner` begins to run: its wait, if it was seen to begin, is over.
#[inline(always)]
fn arrive(ctx: &RawTracePointContext, owner: u32, now: u64) {
    let ended = match passing::end(owner) {
        Some(ended) => ended,
        None => match end_followed(ctx, owner) {
            Some(ended) => ended,
            None => return,
        },
    };
    let (since, state, shift) = (ended.since, ended.state, ended.shift);
    if since > now {
        return;
    }
    let wait = now - since;
    let is_cut = since <= began_ns();
    if let Some(usual) = USUAL_WAITS.get_ptr_mut(ended.place) {
        // SAFETY: a single word, which other CPUs may replace as a whole, here and below.
        let before = unsafe { usual.read_volatile() };
        // Of one that passed before a pause nobody knows whether it is this one. If it was the first at its place, the next one is to be followed.
        if !is_cut || before == 0 {
            unsafe { usual.write_volatile(usual_after(before, wait)) };
        }
    }
    if is_cut && ended.thread.is_null() {
        return;
    }
    let weight = weight_shift(wait, shift);
    let has_passed = shift & SHIFT_PASSING != 0;
    // Those that were taken stand for the others, which were not counted either; open slices stand for what was brief between them.
    let is_between = shift == SHIFT_PASSING && wait < BRIEF_WAIT_NS;
    let slices = slices_shift(wait, shift);
    if has_passed && (weight.is_some() || is_between || slices != 0) {
        passing::tally(owner);
    }
    if has_passed && ended.stack == STACK_SKIPPED && (weight.is_some() || is_between) {
        return;
    }
    count(Stat::Waits);
    if wait < config!(switch.shortest_ns) || wait > config!(switch.longest_ns) {
        return;
    }
    if config!(switch.states) & (1 << (state & 31)) == 0 {
        return;
    }
    let queued = if state == STATE_RUNNABLE {
        wait
    } else if ended.woken > since && ended.woken <= now {
        now - ended.woken
    } else {
        0
    };
    let sum = WaitSum { count: 1, blocked_ns: wait - queued, queued_ns: queued };
    let (weight, estimated) = match weight {
        Some(weight) if has_passed => {
            let weight = weight + slices;
            count_drawn(wait << weight);
            (weight, STATE_ESTIMATED | STATE_UNSETTLED)
        }
        Some(weight) => {
            if !ended.thread.is_null() {
                // SAFETY: the thread is on this CPU from now on, so nobody else writes its entry.
                unsafe { add_to(&raw mut (*ended.thread).thinned, &sum) };
            }
            // Those that were taken stand for the others.
            if ended.stack == STACK_SKIPPED {
                return;
            }
            (weight, STATE_ESTIMATED)
        }
        None if slices != 0 => {
            count_drawn(wait << slices);
            (slices, STATE_ESTIMATED | STATE_UNSETTLED)
        }
        None => (0, 0),
    };
    let key = WaitKey {
        stack: ended.stack,
        waker: ended.waker,
        pid: ended.pid,
        tid: ended.tid,
        state: state | estimated,
        epoch: epoch(),
    };
    let sum = WaitSum {
        count: 1 << weight,
        blocked_ns: sum.blocked_ns << weight,
        queued_ns: sum.queued_ns << weight,
    };
    add_up(&key, &sum);
}

/// The task that `sched_switch` switches to.
#[inline(always)]
fn arriving(ctx: &RawTracePointContext) -> u64 {
    // SAFETY: this tracepoint has these arguments; the verifier checks the load.
    unsafe { *ctx.as_ptr().cast::<u64>().add(2) }
}

/// How often a thread has left its CPU, the low bits. The kernel counts before it tells of a switch (`__schedule`, kernel/sched/core.c).
#[inline(always)]
fn switches_of(task: u64) -> u32 {
    let waits = read_field::<u32>(task, config!(switch.task_waits)).unwrap_or(0);
    waits.wrapping_add(read_field::<u32>(task, config!(switch.task_preemptions)).unwrap_or(0))
}

/// The wait of a thread that is followed. One from before a pause counts from its end, and has no stack if it is not the same any more.
#[inline(always)]
fn end_followed(ctx: &RawTracePointContext, owner: u32) -> Option<Ended> {
    let thread = OFF_CPU_THREADS.get_ptr_mut(owner)?;
    // SAFETY: the thread is on this CPU from now on, so nobody else writes its entry, here and below.
    unsafe {
        let mut since = (*thread).since_ns;
        if since == 0 {
            return None;
        }
        (*thread).since_ns = 0;
        let began = began_ns();
        if since < began {
            since = began;
            (*thread).shift = 0;
            if (*thread).switches != 0 && (*thread).switches != switches_of(arriving(ctx)) {
                (*thread).stack = STACK_NONE;
                (*thread).waker = STACK_NONE;
            }
        }
        Some(Ended {
            since,
            woken: (*thread).woken_ns,
            stack: (*thread).stack,
            waker: (*thread).waker,
            place: (*thread).place,
            pid: (*thread).pid,
            tid: (*thread).tid,
            state: (*thread).state,
            shift: (*thread).shift,
            thread,
        })
    }
}

/// Counts a wait that stands for others which passed: how far its estimate may be off follows from the squares.
#[inline(always)]
fn count_drawn(weighted_ns: u64) {
    let time = weighted_ns >> 10;
    count(Stat::WaitsDrawn);
    add(Stat::WaitsDrawnTime, time);
    add(Stat::WaitsDrawnSquares, time * time);
}

/// The current thread ends while nobody sees switches: what was to be known of it is.
#[inline(always)]
pub(crate) fn forget_ended() {
    if !Control::get().is_some_and(Control::is_paused) {
        return;
    }
    let owner = bpf_get_current_pid_tgid() as u32;
    let _told_before = passing::forget(owner);
    let _absent_is_fine = OFF_CPU_THREADS.remove(owner);
}

/// The thread `owner` leaves its CPU for good.
#[inline(always)]
fn end(owner: u32) {
    let (passed, pid, tid) = passing::forget(owner);
    let mut sum = WaitSum { count: passed, blocked_ns: 0, queued_ns: 0 };
    let (stack, waker, state) = (STACK_NONE, STACK_NONE, STATE_PASSED);
    let mut key = WaitKey { stack, waker, pid, tid, state, epoch: epoch() };
    if sum.count != 0 {
        add_up(&key, &sum);
    }
    if let Some(thread) = OFF_CPU_THREADS.get_ptr(owner) {
        // SAFETY: the current thread's entry: nobody else writes these fields.
        (sum, key.pid, key.tid) = unsafe { ((*thread).thinned, (*thread).pid, (*thread).tid) };
        key.state = STATE_THINNED;
        if sum.count != 0 {
            add_up(&key, &sum);
        }
    }
    let _absent_is_fine = OFF_CPU_THREADS.remove(owner);
}

/// Adds to a sum.
///
/// # Safety
///
/// `sum` points to one that nobody else writes meanwhile.
#[inline(always)]
unsafe fn add_to(sum: *mut WaitSum, more: &WaitSum) {
    // SAFETY: the caller's.
    unsafe {
        (*sum).count = (*sum).count.wrapping_add(more.count);
        (*sum).blocked_ns = (*sum).blocked_ns.wrapping_add(more.blocked_ns);
        (*sum).queued_ns = (*sum).queued_ns.wrapping_add(more.queued_ns);
    }
}

#[inline(always)]
fn add_up(key: &WaitKey, more: &WaitSum) {
    if let Some(sum) = WAITS.get_ptr_mut(key) {
        // SAFETY: the key names a thread, which is on this CPU alone; an epoch that is read is no longer written.
        unsafe { add_to(sum, more) };
        return;
    }
    if WAITS.insert(key, more, 0).is_err() {
        count(Stat::WaitsFull);
        add(Stat::WaitsFullNs, more.blocked_ns.wrapping_add(more.queued_ns));
    }
}

#[inline(always)]
fn epoch() -> u32 {
    // SAFETY: the agent writes the entry in one system call; a torn read is one of two epochs.
    SWITCH_CONTROL.get_ptr(0).map_or(0, |control| unsafe { (*control).epoch })
}

#[inline(always)]
fn began_ns() -> u64 {
    Control::get().map_or(0, Control::began_ns)
}

/// The current thread leaves its CPU: its wait begins, and its stack is taken now or never.
#[inline(always)]
fn leave(ctx: &RawTracePointContext, owner: u32, state: u32, now: u64, control: Control) {
    let ids = current_ids();
    if !in_scope(ids) {
        return;
    }
    let (place, shift) = predict(owner, state, now, control);
    let chance = shift & SHIFT_CHANCE;
    // SAFETY: no preconditions.
    let is_drawn = || unsafe { bpf_get_prandom_u32() } & ((1 << (chance & 31)) - 1) == 0;
    let is_taken = shift != SHIFT_PASSING && (chance == 0 || is_drawn());
    if !is_taken && shift & SHIFT_PASSING != 0 && passing::let_pass(owner, ids, place, state, shift, now) {
        count(Stat::WaitsPassed);
        return;
    }
    let Some(thread) = enter(owner) else { return };
    // SAFETY: the current thread's entry: it is still on this CPU. A waker on another CPU writes `woken_ns` and `waker` alone, after
    // it has seen `since_ns`.
    unsafe {
        (*thread).place = place as u32;
        (*thread).switches = switches_of(current_task());
        (*thread).stack = STACK_SKIPPED;
        (*thread).waker = STACK_NONE;
        (*thread).woken_ns = 0;
        (*thread).pid = ids.pid;
        (*thread).tid = ids.tid;
        (*thread).state = state;
        (*thread).shift = shift;
        (*thread).since_ns = now;
        if config!(switch.states) & (1 << (state & 31)) == 0 {
            return;
        }
    }
    if !is_taken {
        count(Stat::WaitStacksSkipped);
        return;
    }
    take_stack(ctx, CHAIN_SWITCH, &WALK_SWITCH, owner);
}

/// The entry of a thread, made if need be.
#[inline(always)]
fn enter(owner: u32) -> Option<*mut Thread> {
    if let Some(thread) = OFF_CPU_THREADS.get_ptr_mut(owner) {
        return Some(thread);
    }
    let new = Thread {
        since_ns: 0,
        woken_ns: 0,
        stack: STACK_NONE,
        waker: STACK_NONE,
        place: 0,
        switches: 0,
        pid: 0,
        tid: 0,
        state: 0,
        shift: 0,
        thinned: WaitSum { count: 0, blocked_ns: 0, queued_ns: 0 },
    };
    if OFF_CPU_THREADS.insert(owner, new, 0).is_err() {
        count(Stat::WaitingThreadsFull);
        return None;
    }
    OFF_CPU_THREADS.get_ptr_mut(owner)
}

/// Where a wait begins, and with which chance its stack is to be taken.
#[inline(always)]
fn predict(owner: u32, state: u32, now: u64, control: Control) -> (u64, u32) {
    if config!(switch.exact) != 0 {
        return (0, 0);
    }
    let place = where_it_waits(owner, state);
    let usual = usually(place);
    let is_braked = is_braked(now);
    let told = control.threshold_ns();
    // Of the first wait nothing is known, and it may be a long one.
    let chance = if usual == 0 {
        if control.is_passing() || is_braked { FIRST_SHIFT } else { 0 }
    } else {
        shift_of(usual, if is_braked && told < BRAKE_THRESHOLD_NS { BRAKE_THRESHOLD_NS } else { told })
    };
    // What is usually long is followed as ever.
    if chance == 0 || !control.is_passing() {
        return (place, chance);
    }
    if usual == 0 || usual >= BRIEF_WAIT_NS {
        return (place, chance | SHIFT_PASSING);
    }
    if control.is_open(now) {
        return (place, chance | SHIFT_PASSING | u32::from(control.slices_shift()) << SHIFT_SLICES);
    }
    (place, SHIFT_PASSING)
}

/// The place at which the current thread begins a wait. One thread waits at several, some for long: the instruction that entered the kernel tells
/// them apart.
#[inline(always)]
fn where_it_waits(owner: u32, state: u32) -> u64 {
    let instruction = if state == STATE_RUNNABLE { 0 } else { entry_instruction() };
    let mut place = mix(u64::from(owner), instruction) & (u64::from(MAX_WAIT_PLACES) - 1);
    opaque(&mut place);
    place
}

/// How long waits usually are that begin at this place, nanoseconds; zero when nothing is known.
#[inline(always)]
fn usually(place: u64) -> u64 {
    // SAFETY: a single word, which other CPUs may replace as a whole.
    USUAL_WAITS.get_ptr(place as u32).map_or(0, |usual| unsafe { usual.read_volatile() })
}

/// Whether this CPU has taken so many stacks just now that it takes those of short waits no longer.
#[inline(always)]
fn is_braked(now: u64) -> bool {
    let Some(pace) = PACE.get_ptr_mut(0) else { return false };
    // SAFETY: this CPU's own.
    let (window, stacks) = unsafe { ((*pace).window_ns, (*pace).stacks) };
    if now.wrapping_sub(window) > BRAKE_WINDOW_NS {
        // SAFETY: as above.
        unsafe {
            (*pace).window_ns = now;
            (*pace).stacks = 0;
        }
        return false;
    }
    stacks >= BRAKE_STACKS
}

/// `trace_sched_waking(task)` runs in the waker, or in an interrupt on top of whoever ran.
pub(crate) fn woken(ctx: &RawTracePointContext) -> i32 {
    // SAFETY: this tracepoint has one argument; the verifier checks the load.
    let task = unsafe { *ctx.as_ptr().cast::<u64>() };
    let owner = read_field::<u32>(task, config!(offsets.task_pid)).unwrap_or(0);
    if passing::wake(owner) {
        return 0;
    }
    let Some(thread) = OFF_CPU_THREADS.get_ptr_mut(owner) else { return 0 };
    // SAFETY: the kernel holds the thread's lock, so no second waker is here.
    let (since, woken, state) = unsafe { ((*thread).since_ns, (*thread).woken_ns, (*thread).state) };
    if since == 0 || woken != 0 || state == STATE_RUNNABLE {
        return 0;
    }
    // SAFETY: as above.
    unsafe { (*thread).woken_ns = bpf_ktime_get_ns() };
    // SAFETY: as above.
    if config!(switch.wakers) == 0 || unsafe { (*thread).stack } == STACK_SKIPPED {
        return 0;
    }
    take_stack(ctx, CHAIN_WAKE, &WALK_WAKE, owner);
    0
}
