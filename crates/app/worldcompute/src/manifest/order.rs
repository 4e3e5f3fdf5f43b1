//! Producers before consumers, in the author's order where that leaves a choice.

/// Stages that wait for each other, in the order in which they do; the first is also the one that the last waits for.
#[derive(Debug, PartialEq, Eq)]
pub struct Cycle(pub Vec<usize>);

/// Returns an order in which every stage comes after those that it depends on.
///
/// - `dependencies`: for each stage, the stages that it waits for
///
/// # Errors
/// [`Cycle`] when there is none.
pub fn order(dependencies: &[Vec<usize>]) -> Result<Vec<usize>, Cycle> {
    let mut ordered = Vec::with_capacity(dependencies.len());
    let mut done = vec![false; dependencies.len()];
    loop {
        let next = (0..dependencies.len())
            .find(|&stage| !done[stage] && dependencies[stage].iter().all(|&needed| done[needed]));
        match next {
            Some(stage) => {
                done[stage] = true;
                ordered.push(stage);
            }
            None if ordered.len() == dependencies.len() => return Ok(ordered),
            None => return Err(cycle(dependencies, &done)),
        }
    }
}

/// Every stage that is not done waits for another that is not done, so following them comes round.
fn cycle(dependencies: &[Vec<usize>], done: &[bool]) -> Cycle {
    let mut path: Vec<usize> = Vec::new();
    let mut stage = done.iter().position(|done| !done).unwrap_or(0);
    loop {
        if let Some(start) = path.iter().position(|&seen| seen == stage) {
            return Cycle(path.split_off(start));
        }
        path.push(stage);
        match dependencies[stage].iter().find(|&&needed| !done[needed]) {
            Some(&needed) => stage = needed,
            None => return Cycle(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn producers_come_first_and_ties_keep_the_authors_order() {
        assert_eq!(order(&[]), Ok(vec![]));
        assert_eq!(order(&[vec![], vec![], vec![]]), Ok(vec![0, 1, 2]));
        assert_eq!(order(&[vec![2], vec![], vec![1]]), Ok(vec![1, 2, 0]));
        assert_eq!(order(&[vec![1, 1], vec![]]), Ok(vec![1, 0]));
    }

    #[test]
    fn a_cycle_is_named() {
        assert_eq!(order(&[vec![0]]), Err(Cycle(vec![0])));
        assert_eq!(order(&[vec![], vec![2], vec![3], vec![1]]), Err(Cycle(vec![1, 2, 3])));
        assert_eq!(order(&[vec![1], vec![2], vec![1]]), Err(Cycle(vec![1, 2])), "0 only waits for it");
    }
}
