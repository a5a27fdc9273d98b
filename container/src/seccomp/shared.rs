//! A shorter program with the same answers.
//!
//! The kernel checks, translates and tries out every instruction each time a filter is loaded, so
//! each costs every start. A tree of comparisons has an answer at every leaf, and there are few
//! different answers: one of each, at the end, is enough. And a number between two of another answer
//! takes one comparison for equality, not two for order.

use super::{Instruction, JUMP_AT_LEAST, JUMP_EQUAL, RETURN};

/// `BPF_JMP | BPF_JA`: by as much as `k` says.
const JUMP: u16 = 0x05;

/// The shorter program; the same one where it has a form that is not known here, or where an answer
/// at its end would be out of a comparison's reach.
pub(super) fn shortened(program: Vec<Instruction>) -> Vec<Instruction> {
    match shorten(&program) {
        Some(shorter) => shorter,
        None => program,
    }
}

/// Whether it leads to what follows and nowhere else: it is neither a jump nor an answer, which have
/// classes of their own (`BPF_CLASS`).
fn is_straight(instruction: &Instruction) -> bool {
    !matches!(instruction.code & 0x07, 0x05 | 0x06)
}

/// Where an instruction leads, if it is true and if not.
type Targets = (usize, usize);

fn shorten(program: &[Instruction]) -> Option<Vec<Instruction>> {
    let mut code = program.to_vec();
    let mut targets: Vec<Targets> = Vec::with_capacity(code.len());
    for (at, instruction) in code.iter().enumerate() {
        let after = |distance: u8| at + 1 + usize::from(distance);
        let to = |target| landing(program, target);
        targets.push(match instruction.code {
            RETURN | JUMP => (at, at),
            _ if is_straight(instruction) => (at + 1, at + 1),
            _ => (to(after(instruction.if_true))?, to(after(instruction.if_false))?),
        });
    }
    for at in (0..code.len()).rev() {
        if let Some((number, found)) = single(&code, &targets, at) {
            code[at] = Instruction { code: JUMP_EQUAL, k: number, ..code[at] };
            targets[at] = found;
        }
    }
    emit(&code, &targets)
}

/// Where one arrives who jumps to `target`.
fn landing(program: &[Instruction], mut target: usize) -> Option<usize> {
    loop {
        let instruction = program.get(target)?;
        if instruction.code != JUMP {
            return Some(target);
        }
        target += 1 + instruction.k as usize;
    }
}

/// The number that alone has another answer than those around it, and where it and they lead.
fn single(code: &[Instruction], targets: &[Targets], at: usize) -> Option<(u32, Targets)> {
    let order = |at: usize| code.get(at).filter(|it| it.code == JUMP_AT_LEAST);
    let answer = |at: usize| code.get(at).filter(|it| it.code == RETURN).map(|it| it.k);
    let node = order(at)?;
    let (above, below) = *targets.get(at)?;
    if let Some(inner) = order(above) {
        let (high, number) = *targets.get(above)?;
        if node.k.checked_add(1) == Some(inner.k) && answer(below)? == answer(high)? {
            return Some((node.k, (number, below)));
        }
    }
    if let Some(inner) = order(below) {
        let (number, low) = *targets.get(below)?;
        if inner.k.checked_add(1) == Some(node.k) && answer(above)? == answer(low)? {
            return Some((inner.k, (number, low)));
        }
    }
    None
}

/// What can be reached, in order, with one of each answer at the end.
fn emit(code: &[Instruction], targets: &[Targets]) -> Option<Vec<Instruction>> {
    let mut is_reached = vec![false; code.len()];
    let mut kept = Vec::new();
    let mut answers: Vec<Instruction> = Vec::new();
    *is_reached.first_mut()? = true;
    for (at, instruction) in code.iter().enumerate().filter(|(at, _)| *at < targets.len()) {
        if !is_reached[at] {
            continue;
        }
        if instruction.code == RETURN {
            if !answers.contains(instruction) {
                answers.push(*instruction);
            }
            continue;
        }
        kept.push(at);
        let (one, other) = targets[at];
        *is_reached.get_mut(one)? = true;
        *is_reached.get_mut(other)? = true;
    }
    let place = |target: usize| {
        let instruction = code.get(target)?;
        match instruction.code {
            RETURN => Some(kept.len() + answers.iter().position(|answer| answer == instruction)?),
            _ => kept.binary_search(&target).ok(),
        }
    };
    let mut shorter = Vec::with_capacity(kept.len() + answers.len());
    for (at, from) in kept.iter().enumerate() {
        let (one, other) = targets[*from];
        let distance = |target| u8::try_from(place(target)?.checked_sub(at + 1)?).ok();
        let (if_true, if_false) = (distance(one)?, distance(other)?);
        if is_straight(&code[*from]) && if_true > 0 {
            // What follows it must follow still.
            return None;
        }
        shorter.push(Instruction { if_true, if_false, ..code[*from] });
    }
    shorter.extend(answers);
    Some(shorter)
}
