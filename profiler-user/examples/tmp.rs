//! x
#![allow(clippy::all, missing_docs, clippy::print_stdout)]
use profiler_user::{aggregate::*, bpf::*, session::*};
fn main() {
    let t0 = std::time::Instant::now();
    let arg: Option<u32> = std::env::args().nth(1).and_then(|a| a.parse().ok());
    let o = SessionOptions {
        scope: arg.map_or(Scope::Host, |p| Scope::Processes(vec![p])),
        follow_forks: true,
        cpus: None,
        clock: Clock::CpuClock,
        frequency_hz: 99,
        idle: Idle::Exclude,
        stacks: StackScope::Both,
    };
    let mut s = match Session::start(&o) {
        Ok(s) => s,
        Err(e) => {
            println!("{e:?}");
            return;
        }
    };
    println!("started in {:?}", t0.elapsed());
    for _ in 0..30 {
        std::thread::sleep(std::time::Duration::from_millis(100));
        s.tick();
    }
    println!("{:?} busiest {:?} overhead {:?} lost {:?}", s.samples(), s.busiest(), s.overhead(), s.lost());
    let r = s.stop();
    println!("{:?} {:?}", r.aggregate.stops().collect::<Vec<_>>(), r.aggregate.walked_out());
    let mut t: Vec<_> = r.aggregate.tallies().collect();
    t.sort_by_key(|t| std::cmp::Reverse(t.1.samples));
    for (k, v) in t.iter().take(4) {
        println!(
            "{} {} tid {} {:?}",
            v.samples,
            r.processes.info(k.process).name,
            k.tid,
            r.aggregate.stacks()[k.stack as usize]
                .iter()
                .map(|p| r.aggregate.places()[*p as usize])
                .collect::<Vec<_>>()
        );
    }
}
