//! An assembler for the few eBPF instructions that the steering program needs (RFC 9669). No system call here.

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high half.
    registers: u8,
    offset: i16,
    immediate: i32,
}

#[derive(Clone, Copy)]
pub(super) struct Register(u8);

/// Result of a call, and of the program.
pub(super) const R0: Register = Register(0);
/// R1 to R5 are a call's arguments and do not survive it.
pub(super) const R1: Register = Register(1);
pub(super) const R2: Register = Register(2);
pub(super) const R3: Register = Register(3);
pub(super) const R4: Register = Register(4);
pub(super) const R5: Register = Register(5);
/// R6 to R9 survive calls.
pub(super) const R6: Register = Register(6);
pub(super) const R7: Register = Register(7);
/// Top of the 512 bytes of stack.
pub(super) const FRAME: Register = Register(10);

#[derive(Clone, Copy)]
pub(super) enum Width {
    Half = 0x08,
    Byte = 0x10,
    Word = 0x00,
    Double = 0x18,
}

/// A place to jump to, made by [`Assembler::new_label`].
#[derive(Clone, Copy)]
pub(super) struct JumpLabel(usize);

#[derive(Default)]
pub(super) struct Assembler {
    code: Vec<Instruction>,
    /// Where each label stands; None until it is placed.
    labels: Vec<Option<usize>>,
    /// (instruction, label it jumps to)
    jumps: Vec<(usize, JumpLabel)>,
}

impl Assembler {
    fn push(&mut self, code: u8, to: Register, from: Register, offset: i16, immediate: i32) -> &mut Self {
        self.code.push(Instruction { code, registers: to.0 | from.0 << 4, offset, immediate });
        self
    }

    pub(super) fn copy(&mut self, to: Register, from: Register) -> &mut Self {
        self.push(0xbf, to, from, 0, 0)
    }

    pub(super) fn set(&mut self, to: Register, value: i32) -> &mut Self {
        self.push(0xb7, to, R0, 0, value)
    }

    pub(super) fn add(&mut self, to: Register, value: i32) -> &mut Self {
        self.push(0x07, to, R0, 0, value)
    }

    /// Unsigned remainder; `value` is not zero.
    pub(super) fn modulo(&mut self, to: Register, value: i32) -> &mut Self {
        self.push(0x97, to, R0, 0, value)
    }

    pub(super) fn load(&mut self, width: Width, to: Register, base: Register, offset: i16) -> &mut Self {
        self.push(0x61 | width as u8, to, base, offset, 0)
    }

    pub(super) fn store(&mut self, width: Width, base: Register, offset: i16, from: Register) -> &mut Self {
        self.push(0x63 | width as u8, base, from, offset, 0)
    }

    pub(super) fn store_value(&mut self, width: Width, base: Register, offset: i16, value: i32) -> &mut Self {
        self.push(0x62 | width as u8, base, R0, offset, value)
    }

    /// Address of a stack slot.
    pub(super) fn frame_address(&mut self, to: Register, offset: i32) -> &mut Self {
        self.copy(to, FRAME).add(to, offset)
    }

    /// The map behind a descriptor (two instructions; the kernel replaces the number).
    pub(super) fn map(&mut self, to: Register, descriptor: i32) -> &mut Self {
        const PSEUDO_MAP_FD: Register = Register(1);
        self.push(0x18, to, PSEUDO_MAP_FD, 0, descriptor).push(0, R0, R0, 0, 0)
    }

    pub(super) fn call(&mut self, helper: i32) -> &mut Self {
        self.push(0x85, R0, R0, 0, helper)
    }

    pub(super) fn exit(&mut self) -> &mut Self {
        self.push(0x95, R0, R0, 0, 0)
    }

    pub(super) fn new_label(&mut self) -> JumpLabel {
        self.labels.push(None);
        JumpLabel(self.labels.len() - 1)
    }

    pub(super) fn place(&mut self, label: JumpLabel) -> &mut Self {
        self.labels[label.0] = Some(self.code.len());
        self
    }

    pub(super) fn jump(&mut self, label: JumpLabel) -> &mut Self {
        self.jumps.push((self.code.len(), label));
        self.push(0x05, R0, R0, 0, 0)
    }

    pub(super) fn jump_if(&mut self, register: Register, is: i32, label: JumpLabel) -> &mut Self {
        self.jumps.push((self.code.len(), label));
        self.push(0x15, register, R0, 0, is)
    }

    pub(super) fn jump_unless(&mut self, register: Register, is: i32, label: JumpLabel) -> &mut Self {
        self.jumps.push((self.code.len(), label));
        self.push(0x55, register, R0, 0, is)
    }

    /// Unsigned.
    pub(super) fn jump_below(&mut self, register: Register, bound: i32, label: JumpLabel) -> &mut Self {
        self.jumps.push((self.code.len(), label));
        self.push(0xa5, register, R0, 0, bound)
    }

    pub(super) fn finish(mut self) -> Vec<Instruction> {
        for (at, label) in &self.jumps {
            let target = self.labels[label.0].expect("every label of the program is placed");
            // Relative to the next instruction; a program here is a few hundred long.
            self.code[*at].offset = (target as isize - *at as isize - 1) as i16;
        }
        self.code
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_are_relative_to_the_next_instruction_both_ways() {
        let mut a = Assembler::default();
        let (back, forth) = (a.new_label(), a.new_label());
        a.place(back).set(R0, 1).jump_if(R0, 2, forth).jump(back).place(forth).exit();
        let offsets: Vec<_> = a.finish().iter().map(|i| i.offset).collect();
        assert_eq!(offsets, [0, 1, -3, 0]);
    }

    #[test]
    fn instructions_have_the_kernels_encoding() {
        let mut a = Assembler::default();
        a.load(Width::Half, R1, FRAME, -8).store(Width::Double, FRAME, -16, R6).map(R2, 5).modulo(R1, 3);
        let code: Vec<_> = a.finish().iter().map(|i| (i.code, i.registers, i.offset, i.immediate)).collect();
        let expected =
            [(0x69, 0xa1, -8, 0), (0x7b, 0x6a, -16, 0), (0x18, 0x12, 0, 5), (0, 0, 0, 0), (0x97, 0x01, 0, 3)];
        assert_eq!(code, expected);
    }
}
