//! The stages that could start, by what they want: finding the next one does not look at all of them.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
};

use crate::schedule::Wanted;

/// Ready stages in classes of equal wants; in each, the one with the longest remaining path comes first.
#[derive(Debug, Default)]
pub(crate) struct ReadyQueue {
    classes: Vec<Class>,
}

#[derive(Debug)]
struct Class {
    wanted: Wanted,
    stages: BinaryHeap<Ready>,
}

#[derive(Debug, PartialEq)]
struct Ready {
    /// Seconds of the longest path that begins here.
    remaining: f64,
    index: Reverse<usize>,
}

impl Eq for Ready {}

impl PartialOrd for Ready {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ready {
    fn cmp(&self, other: &Self) -> Ordering {
        let remaining = self.remaining.total_cmp(&other.remaining);
        remaining.then(self.index.cmp(&other.index))
    }
}

impl ReadyQueue {
    /// Adds the stage at `index`, of which the longest path takes `remaining` seconds and which wants `wanted`.
    pub(crate) fn push(&mut self, index: usize, remaining: f64, wanted: Wanted) {
        let position = self.classes.iter().position(|class| class.wanted == wanted);
        let position = position.unwrap_or_else(|| {
            self.classes.push(Class {
                wanted,
                stages: BinaryHeap::new(),
            });
            self.classes.len() - 1
        });
        self.classes[position].stages.push(Ready {
            remaining,
            index: Reverse(index),
        });
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.classes.iter().all(|class| class.stages.is_empty())
    }

    /// The first stage that is still ready and for which `take` finds what it wants, and that.
    pub(crate) fn pop<T>(
        &mut self,
        is_still_ready: impl Fn(usize) -> bool,
        mut take: impl FnMut(&Wanted) -> Option<T>,
    ) -> Option<(usize, T)> {
        for class in &mut self.classes {
            while class
                .stages
                .peek()
                .is_some_and(|ready| !is_still_ready(ready.index.0))
            {
                class.stages.pop();
            }
        }
        let mut order: Vec<usize> = (0..self.classes.len())
            .filter(|&i| !self.classes[i].stages.is_empty())
            .collect();
        order.sort_by(|&a, &b| {
            let head = |i: usize| self.classes[i].stages.peek();
            head(b).cmp(&head(a))
        });
        order.into_iter().find_map(|i| {
            let class = &mut self.classes[i];
            let taken = take(&class.wanted)?;
            let ready = class.stages.pop()?;
            Some((ready.index.0, taken))
        })
    }
}
