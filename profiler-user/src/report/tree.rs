//! The call tree: stacks merged from the root (or from the leaf), one node per distinct path.
//!
//! Built by sorting the stacks and comparing neighbours, so it needs no hashing, and siblings come out sorted by
//! name: the same profile always gives the same tree.

use super::{Detail, Function, FunctionClass, FunctionId, Functions};
use crate::profile::{Labels, Profile, Sample};

/// Which end of the stacks is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Merge {
    /// Paths begin with the outermost caller.
    #[default]
    FromRoot,
    /// Paths begin with the innermost function, still below the process.
    FromLeaf,
}

/// What stands below the outermost function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Roots {
    /// One root per process name.
    #[default]
    Process,
    /// One root per thread: `name-pid/tid thread`.
    Thread,
}

impl Roots {
    /// The name of the root that a sample with these labels hangs from.
    pub fn name(self, labels: &Labels) -> String {
        let process = if labels.process.is_empty() { "[unknown]" } else { &labels.process };
        match self {
            Self::Process => process.to_owned(),
            Self::Thread if labels.thread.is_empty() => format!("{process}-{}/{}", labels.pid, labels.tid),
            Self::Thread => format!("{process}-{}/{} {}", labels.pid, labels.tid, labels.thread),
        }
    }
}

/// One path from a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// Index for [`CallTree::function`].
    key: u32,
    /// Frames above this one; roots have depth 0.
    pub depth: u32,
    /// Value of all samples on this path.
    pub total: u64,
    /// Of these, samples that end here.
    pub own: u64,
    /// Of the total, time spent waiting; zero in profiles that do not mix it with running.
    pub waiting: u64,
    /// Index just past the last node below this one.
    pub end: u32,
}

/// The merged stacks of a profile. Nodes are in depth-first order: a node's first child follows it directly.
#[derive(Debug)]
pub struct CallTree<'p> {
    roots: Vec<String>,
    functions: Vec<Function<'p>>,
    nodes: Vec<Node>,
    total: u64,
}

impl<'p> CallTree<'p> {
    /// Merges the stacks of `profile`, adding up one of its values. Samples without that value are left out.
    pub fn new(profile: &'p Profile, value: usize, merge: Merge, roots: Roots) -> Self {
        let functions = Functions::new(profile, Detail::Class);
        let (rank, functions_sorted) = ranked(&functions);
        let (root_of_labels, root_names) = root_names(profile, roots);
        let first_function = root_names.len() as u32;

        let mut paths = Vec::new();
        let mut ends = Vec::with_capacity(profile.samples.len());
        let mut amounts = Vec::with_capacity(profile.samples.len());
        let waiting_value = profile.waiting_value(value);
        for Sample { stack, labels, values } in &profile.samples {
            let amount = values.get(value).copied().unwrap_or(0);
            if amount == 0 {
                continue;
            }
            paths.push(root_of_labels[labels.0 as usize]);
            let path =
                functions.of_stack(profile.stack(*stack)).map(|id| first_function + rank[id.0 as usize]);
            match merge {
                Merge::FromRoot => paths.extend(path.rev()),
                Merge::FromLeaf => paths.extend(path),
            }
            ends.push(paths.len());
            let waiting = waiting_value.and_then(|value| values.get(value)).copied().unwrap_or(0);
            amounts.push((amount, waiting));
        }
        let path_of = |index: usize| {
            let start = if index == 0 { 0 } else { ends[index - 1] };
            &paths[start..ends[index]]
        };
        let mut order: Vec<usize> = (0..ends.len()).collect();
        order.sort_unstable_by(|a, b| path_of(*a).cmp(path_of(*b)));

        let nodes = merge_sorted(order.iter().map(|index| (path_of(*index), amounts[*index])));
        let total = amounts.iter().fold(0_u64, |sum, (amount, _)| sum.saturating_add(*amount));
        Self { roots: root_names, functions: functions_sorted, nodes, total }
    }

    /// Value of all samples.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// All nodes, depth first, siblings sorted by name.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The function of a node; roots are functions of class [`FunctionClass::Root`].
    pub fn function(&self, node: &Node) -> Function<'_> {
        let key = node.key as usize;
        match self.roots.get(key) {
            Some(name) => Function { name, module: "", class: FunctionClass::Root, file: None, line: None },
            None => self.functions[key - self.roots.len()].clone(),
        }
    }
}

/// For each function its position in name order, and the functions in that order.
fn ranked<'p>(functions: &Functions<'p>) -> (Vec<u32>, Vec<Function<'p>>) {
    let mut order: Vec<FunctionId> = (0..functions.entries().len() as u32).map(FunctionId).collect();
    order.sort_unstable_by(|a, b| functions.get(*a).cmp(functions.get(*b)));
    let mut rank = vec![0; order.len()];
    for (position, id) in order.iter().enumerate() {
        rank[id.0 as usize] = position as u32;
    }
    (rank, order.iter().map(|id| functions.get(*id).clone()).collect())
}

/// For each label set the position of its root's name, and the sorted distinct names.
fn root_names(profile: &Profile, roots: Roots) -> (Vec<u32>, Vec<String>) {
    let of_labels: Vec<String> = profile.labels.iter().map(|labels| roots.name(labels)).collect();
    let mut names = of_labels.clone();
    names.sort_unstable();
    names.dedup();
    let position = |name: &String| names.binary_search(name).unwrap_or_default() as u32;
    (of_labels.iter().map(position).collect(), names)
}

/// Turns sorted paths into a tree: what a path shares with the one before it are the same nodes.
fn merge_sorted<'a>(paths: impl Iterator<Item = (&'a [u32], (u64, u64))>) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    let close = |nodes: &mut Vec<Node>, open: &mut Vec<usize>, depth: usize| {
        while open.len() > depth {
            let Some(closed) = open.pop() else { break };
            nodes[closed].end = nodes.len() as u32;
            let Node { total, waiting, .. } = nodes[closed];
            if let Some(parent) = open.last() {
                nodes[*parent].total = nodes[*parent].total.saturating_add(total);
                nodes[*parent].waiting = nodes[*parent].waiting.saturating_add(waiting);
            }
        }
    };
    for (path, (amount, waiting)) in paths {
        let shared = open.iter().zip(path).take_while(|(node, key)| nodes[**node].key == **key).count();
        close(&mut nodes, &mut open, shared);
        for (depth, key) in path.iter().enumerate().skip(shared) {
            open.push(nodes.len());
            nodes.push(Node { key: *key, depth: depth as u32, total: 0, own: 0, waiting: 0, end: 0 });
        }
        if let Some(leaf) = open.last() {
            nodes[*leaf].own = nodes[*leaf].own.saturating_add(amount);
            nodes[*leaf].total = nodes[*leaf].total.saturating_add(amount);
            nodes[*leaf].waiting = nodes[*leaf].waiting.saturating_add(waiting);
        }
    }
    close(&mut nodes, &mut open, 0);
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fixture;

    fn drawn(profile: &Profile, merge: Merge, roots: Roots) -> String {
        let tree = CallTree::new(profile, 0, merge, roots);
        let line = |node: &Node| {
            let indent = "  ".repeat(node.depth as usize);
            format!("{indent}{} {}/{}\n", tree.function(node).name, node.own, node.total)
        };
        tree.nodes().iter().map(line).collect()
    }

    #[test]
    fn paths_merge_from_the_root() {
        let tree = drawn(&fixture::recursive(), Merge::FromRoot, Roots::Process);
        assert_eq!(tree, "prog 0/10\n  main 1/10\n    fib 4/9\n      fib 3/5\n        leaf 2/2\n",);
    }

    #[test]
    fn paths_merge_from_the_leaf_below_the_thread() {
        let tree = drawn(&fixture::recursive(), Merge::FromLeaf, Roots::Thread);
        assert!(
            tree.starts_with("prog-10/11 worker 0/10\n  fib 0/7\n    fib 0/3\n      main 3/3\n"),
            "{tree}"
        );
    }

    #[test]
    fn totals_hold_at_every_node() {
        let tree_profile = fixture::hostile();
        let tree = CallTree::new(&tree_profile, 1, Merge::FromRoot, Roots::Process);
        let roots: u64 = tree.nodes().iter().filter(|node| node.depth == 0).map(|node| node.total).sum();
        assert_eq!(roots, tree.total());
        for (index, node) in tree.nodes().iter().enumerate() {
            let below = &tree.nodes()[index + 1..node.end as usize];
            let children: u64 =
                below.iter().filter(|child| child.depth == node.depth + 1).map(|child| child.total).sum();
            assert_eq!(node.total, node.own + children);
        }
    }
}
