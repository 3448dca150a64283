//! Rules in words, as the tools of binutils write them.

use profiler_common::unwind::{
    AT_FP, Arch, CFA_DEREF, CFA_END, CFA_FP, CFA_NONE, CFA_PLT, CFA_REGISTER, CFA_SIGNAL, CFA_SP, CFA_SWITCH,
    CFA_UNSUPPORTED, IN_REGISTER, Rule, SAVED,
};

/// A rule for people: `cfa=rsp+16 ra=[cfa-8] rbp=[cfa-16]`. What a callee left unchanged is not mentioned.
pub fn describe(rule: &Rule, arch: Arch) -> String {
    let (sp, fp) = match arch {
        Arch::X86_64 => ("rsp", "rbp"),
        Arch::Aarch64 => ("sp", "x29"),
    };
    let cfa = match rule.cfa {
        CFA_NONE => return "no information: frame pointer".to_owned(),
        CFA_END => return "end of the stack".to_owned(),
        CFA_UNSUPPORTED => return "unsupported information".to_owned(),
        CFA_SWITCH => return "other stack: frame pointer".to_owned(),
        CFA_SIGNAL => return format!("signal frame: registers at {sp}{:+}", rule.cfa_offset),
        CFA_PLT => format!("{sp}+8 or +16 from byte {} of 16 on", rule.cfa_add),
        _ => {
            let base = match rule.cfa & !CFA_DEREF {
                CFA_SP => sp.to_owned(),
                CFA_FP => fp.to_owned(),
                CFA_REGISTER => register(i16::from(rule.register), arch),
                other => format!("?{other}"),
            };
            let place = offset(&base, i64::from(rule.cfa_offset));
            if rule.cfa & CFA_DEREF == 0 { place } else { offset(&format!("[{place}]"), rule.cfa_add.into()) }
        }
    };
    let return_address = match rule.ra {
        SAVED => saved("cfa", rule.ra_offset),
        IN_REGISTER => register(rule.ra_offset, arch),
        _ => "x30".to_owned(),
    };
    let mut parts = vec![format!("cfa={cfa} ra={return_address}")];
    let frame_pointer = match rule.fp {
        SAVED => Some(saved("cfa", rule.fp_offset)),
        AT_FP => Some(saved(fp, rule.fp_offset)),
        IN_REGISTER => Some(register(rule.fp_offset, arch)),
        _ => None,
    };
    parts.extend(frame_pointer.map(|place| format!("{fp}={place}")));
    if rule.rbx_offset != 0 {
        parts.push(format!("rbx={}", saved("cfa", rule.rbx_offset)));
    }
    parts.join(" ")
}

fn offset(base: &str, bytes: i64) -> String {
    if bytes == 0 { base.to_owned() } else { format!("{base}{bytes:+}") }
}

fn saved(base: &str, words: i16) -> String {
    format!("[{}]", offset(base, i64::from(words) * 8))
}

/// A register by its DWARF number.
fn register(number: i16, arch: Arch) -> String {
    const X86: [&str; 8] = ["rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp"];

    match arch {
        Arch::Aarch64 => format!("x{number}"),
        Arch::X86_64 => {
            let named = usize::try_from(number).ok().and_then(|number| X86.get(number));
            named.map_or_else(|| format!("r{number}"), |name| (*name).to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use profiler_common::unwind::SAME;

    use super::*;

    #[test]
    fn rules_read_as_binutils_writes_them() {
        let rule = Rule {
            cfa_offset: 16,
            ra_offset: -1,
            fp: SAVED,
            fp_offset: -2,
            rbx_offset: -3,
            ..Rule::of(CFA_SP)
        };
        assert_eq!(describe(&rule, Arch::X86_64), "cfa=rsp+16 ra=[cfa-8] rbp=[cfa-16] rbx=[cfa-24]");
        let rule = Rule { cfa_offset: -8, ra_offset: -1, fp: AT_FP, ..Rule::of(CFA_FP | CFA_DEREF) };
        assert_eq!(describe(&rule, Arch::X86_64), "cfa=[rbp-8] ra=[cfa-8] rbp=[rbp]");
        let rule = Rule { cfa_offset: 8, cfa_add: 8, ra_offset: -1, ..Rule::of(CFA_SP | CFA_DEREF) };
        assert_eq!(describe(&rule, Arch::X86_64), "cfa=[rsp+8]+8 ra=[cfa-8]");
        let rule = Rule { register: 10, ra: IN_REGISTER, ra_offset: 5, ..Rule::of(CFA_REGISTER) };
        assert_eq!(describe(&rule, Arch::X86_64), "cfa=r10 ra=rdi");
        assert_eq!(describe(&Rule { ra: SAME, ..Rule::of(CFA_SP) }, Arch::Aarch64), "cfa=sp ra=x30");
        let rule = Rule { cfa_offset: 312, ..Rule::of(CFA_SIGNAL) };
        assert_eq!(describe(&rule, Arch::Aarch64), "signal frame: registers at sp+312");
    }
}
