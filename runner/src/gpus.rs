//! The GPUs of this machine.

use std::{env, fs, process::Command, sync::OnceLock};

use natron_artifacts::Gpu;

use crate::Instance;

/// A GPU that a run may hand out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GpuSlot {
    /// Ordinal, as `CUDA_VISIBLE_DEVICES` names it.
    pub(crate) ordinal: u32,
    /// Its memory in bytes, where that is known.
    pub(crate) memory_bytes: Option<u64>,
}

/// Ordinals beyond this are not handed out.
const MAX_GPUS: u32 = 64;

/// The GPUs that this process may use: those that `NATRON_GPUS` lists (as `0,1` or `0:80GiB`; empty for none), else those that
/// `CUDA_VISIBLE_DEVICES` leaves of the device files of the NVIDIA driver.
pub(crate) fn found() -> &'static [GpuSlot] {
    static FOUND: OnceLock<Vec<GpuSlot>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let text = |name: &str| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        if let Some(listed) = text("NATRON_GPUS") {
            return listed.split(',').filter_map(slot).collect();
        }
        let there = device_files();
        match text("CUDA_VISIBLE_DEVICES") {
            // The caller's word is taken for what the driver shows, as CUDA does: an unknown device ends the list.
            Some(visible) => visible
                .split(',')
                .map_while(slot)
                .take_while(|slot| there.contains(slot))
                .collect(),
            None => there,
        }
    })
}

/// The class of the GPUs that `instance` computes on here, as its key holds it; nothing where it computes on the CPU.
pub(crate) fn class(instance: &Instance) -> Option<String> {
    if instance.gpus == 0 {
        return None;
    }
    let is_optional = instance.resources.gpu == Gpu::Auto;
    if is_optional && found().len() < instance.gpus as usize {
        return None;
    }
    match instance.parsed.stage.gpu_class() {
        Ok(class) if class.is_empty() => Some("cuda".to_owned()),
        Ok(class) => Some(format!("cuda: {class}")),
        Err(_) if is_optional => None,
        // The run says why it cannot.
        Err(_) => Some("cuda".to_owned()),
    }
}

/// Whether `instance`'s key depends on more of the GPUs than how many there are, which is all that the fast path looks at.
pub(crate) fn decide_by_more_than_their_number(instance: &Instance) -> bool {
    instance.gpus > 0
        && !found().is_empty()
        && !matches!(instance.parsed.stage.gpu_class(), Ok(class) if class.is_empty())
}

/// Ordinals of GPUs for `instance`, where it has the machine for itself; none where it computes on the CPU.
pub(crate) fn of(instance: &Instance) -> Vec<u32> {
    let n = class(instance).map_or(0, |_| instance.gpus as usize);
    found().iter().take(n).map(|slot| slot.ordinal).collect()
}

/// Fills in what `nvidia-smi` says of memory, for slots that do not know it.
pub(crate) fn with_memory(slots: &[GpuSlot]) -> Vec<GpuSlot> {
    if slots.iter().all(|slot| slot.memory_bytes.is_some()) {
        return slots.to_vec();
    }
    let asked = Command::new("nvidia-smi")
        .args([
            "--query-gpu=index,memory.total",
            "--format=csv,noheader,nounits",
        ])
        .output();
    let text = asked.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let memory_of = |ordinal: u32| {
        text.as_ref().ok()?.lines().find_map(|line| {
            let (index, mebibytes) = line.split_once(',')?;
            let is_it = index.trim().parse() == Ok(ordinal);
            is_it.then(|| mebibytes.trim().parse::<u64>().ok().map(|m| m << 20))?
        })
    };
    slots
        .iter()
        .map(|slot| GpuSlot {
            memory_bytes: slot.memory_bytes.or_else(|| memory_of(slot.ordinal)),
            ..slot.clone()
        })
        .collect()
}

/// `0`, or `0:80GiB`.
fn slot(text: &str) -> Option<GpuSlot> {
    let (ordinal, memory) = match text.trim().split_once(':') {
        Some((ordinal, memory)) => (ordinal, Some(crate::settings::bytes(memory)?)),
        None => (text.trim(), None),
    };
    let ordinal = ordinal.parse().ok().filter(|ordinal| *ordinal < MAX_GPUS)?;
    Some(GpuSlot {
        ordinal,
        memory_bytes: memory,
    })
}

fn device_files() -> Vec<GpuSlot> {
    let entries = fs::read_dir("/dev").into_iter().flatten().flatten();
    let mut ordinals: Vec<u32> = entries
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()?
                .strip_prefix("nvidia")?
                .parse()
                .ok()
        })
        .filter(|ordinal| *ordinal < MAX_GPUS)
        .collect();
    ordinals.sort_unstable();
    let slot = |ordinal| GpuSlot {
        ordinal,
        memory_bytes: None,
    };
    ordinals.into_iter().map(slot).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_lists_of_gpus() {
        let known = |ordinal, memory_bytes| {
            Some(GpuSlot {
                ordinal,
                memory_bytes,
            })
        };
        assert_eq!(slot("1"), known(1, None));
        assert_eq!(slot(" 0:80GiB"), known(0, Some(80 << 30)));
        for text in ["", "GPU-1234", "64", "0:much"] {
            assert_eq!(slot(text), None, "{text}");
        }
    }
}
