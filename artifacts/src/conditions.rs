//! What surrounds a stage and must not reach its outputs.

use std::{collections::BTreeMap, time::Duration};

/// Circumstances that are no input of a stage, changed on purpose to see whether its outputs depend on them.
///
/// A stage that starts programs hands them on; training takes the time between its checkpoints from here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Conditions {
    /// Environment variables for programs, in place of those that they would get. What a stage declares for itself is part
    /// of its key, and stays.
    pub environment: BTreeMap<String, String>,
    /// Seed of the order in which the entries of a folder are made for a program; by name without one.
    pub folder_order: Option<u64>,
    /// The rights that programs' new files do not get, where they are not to be those of this process.
    pub umask: Option<u32>,
    /// The least time between two checkpoints, for a stage that makes them by time or by count otherwise.
    pub checkpoint_every: Option<Duration>,
}

impl Conditions {
    /// `items`, sorted by name, in the order in which they are to be made.
    pub fn ordered<T>(&self, mut items: Vec<T>) -> Vec<T> {
        let Some(seed) = self.folder_order else {
            return items;
        };
        // Last first differs for certain, and is how some file systems list what was made first to last.
        items.reverse();
        if items.len() > 4 {
            crate::Streams::new(seed)
                .stream("folder order")
                .shuffle(&mut items);
        }
        items
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_order_has_the_same_items() {
        let items: Vec<u32> = (0..20).collect();
        let other = Conditions {
            folder_order: Some(7),
            ..Conditions::default()
        };

        assert_eq!(Conditions::default().ordered(items.clone()), items);
        assert_eq!(other.ordered(vec![1, 2]), [2, 1]);
        let mut shuffled = other.ordered(items.clone());
        assert_ne!(shuffled, items);
        shuffled.sort_unstable();
        assert_eq!(shuffled, items);
    }
}
