//! The cells of a bench: each model with each delegate, number of threads and batch.
//!
//! Pure.

use crate::config::Delegate;

/// What one cell runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// The index of its model.
    pub model: usize,
    pub delegate: Delegate,
    /// The number of threads, for a delegate whose number can be chosen.
    pub threads: Option<u16>,
    /// How many windows go through at a time.
    pub batch: usize,
}

/// What cells are made of: every model with everything else.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// The names of the models.
    pub models: Vec<String>,
    pub delegates: Vec<Delegate>,
    /// Numbers of threads to try; empty: what each delegate has.
    pub threads: Vec<u16>,
    pub batches: Vec<usize>,
}

impl Matrix {
    /// Returns the cells, in the order in which a reader compares them. A delegate whose threads cannot be chosen has one cell
    /// where another has one for each number.
    pub fn cells(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        for (model, _) in self.models.iter().enumerate() {
            for delegate in &self.delegates {
                for (delegate, threads) in self.with_threads(delegate) {
                    let cell = |batch: &usize| Cell { model, delegate: delegate.clone(), threads, batch: *batch };
                    cells.extend(self.batches.iter().map(cell));
                }
            }
        }
        cells
    }

    fn with_threads(&self, delegate: &Delegate) -> Vec<(Delegate, Option<u16>)> {
        let chosen = |threads: &u16| {
            let kind = delegate.kind.kind().with_threads(*threads)?;
            Some((Delegate { kind, ..delegate.clone() }, Some(*threads)))
        };
        let all: Vec<_> = self.threads.iter().filter_map(chosen).collect();
        if !all.is_empty() {
            return all;
        }
        let kind = delegate.kind.kind();
        let threads = kind.threads();
        vec![(delegate.clone(), kind.with_threads(threads).map(|_| threads))]
    }
}

impl Cell {
    /// Returns the cell's name: `model/delegate/2 threads/batch 8`, without what is 1.
    pub fn name(&self, models: &[String]) -> String {
        let model = models.get(self.model).map_or("", String::as_str);
        let mut name = format!("{model}/{}", self.delegate.name);
        if let Some(threads @ 2..) = self.threads {
            name.push_str(&format!("/{threads} threads"));
        }
        if self.batch > 1 {
            name.push_str(&format!("/batch {}", self.batch));
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_choice_meets_each_other_one() {
        let delegates = ["xnnpack", "cpu"].map(|name| Delegate::built_in(name).unwrap()).to_vec();
        let models = vec!["a".to_owned(), "b".to_owned()];
        let matrix = Matrix { models, delegates, threads: vec![1, 2], batches: vec![1, 8] };
        let cells = matrix.cells();
        let names: Vec<String> = cells.iter().map(|cell| cell.name(&matrix.models)).collect();
        assert_eq!(cells.len(), 16);
        assert_eq!(
            names[..4],
            ["a/xnnpack", "a/xnnpack/batch 8", "a/xnnpack/2 threads", "a/xnnpack/2 threads/batch 8"]
        );
        assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), 16);
        assert_eq!(cells[2].delegate.kind.kind().threads(), 2);
        let as_they_are = Matrix { threads: Vec::new(), batches: vec![1], ..matrix };
        assert_eq!(as_they_are.cells().len(), 4);
    }
}
