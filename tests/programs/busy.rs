//! Hashing, sorting, formatting, panics caught and recursion through trait objects until it is killed.

use std::collections::{BTreeMap, HashMap};

trait Visit {
    fn visit(&self, depth: u32) -> u64;
}

struct Node(u64);

impl Visit for Node {
    fn visit(&self, depth: u32) -> u64 {
        if depth == 0 {
            return self.0;
        }
        let children: Vec<Box<dyn Visit>> = vec![Box::new(Node(self.0 + 1)), Box::new(Node(self.0 + 2))];
        children.iter().map(|child| child.visit(depth - 1)).fold(0, u64::wrapping_add)
    }
}

fn main() {
    std::panic::set_hook(Box::new(|_| {}));
    for round in 0u64.. {
        let mut counts: HashMap<String, u64> = HashMap::new();
        for i in 0..2000 {
            *counts.entry(format!("{}", i % 300)).or_default() += Node(round).visit(4);
        }
        let sorted: BTreeMap<_, _> = counts.into_iter().collect();
        let caught = std::panic::catch_unwind(|| assert!(sorted.len() > 1000));
        std::hint::black_box((sorted.len(), caught.is_err()));
    }
}
