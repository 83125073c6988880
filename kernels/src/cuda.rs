//! The GPU: found when the program runs, with no toolkit and no feature flag at build time.
//!
//! CUDA sources are compiled by NVRTC for the card at hand, and what it makes is kept in a folder that the caller names,
//! under the digest of the source, the architecture and NVRTC's version.

use std::{
    collections::BTreeSet,
    ffi::CString,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use cudarc::{
    driver::{CudaContext, CudaModule, CudaStream, DriverError, sys::CUdevice_attribute},
    nvrtc::{Ptx, result as nvrtc, sys as nvrtc_sys},
};

/// The variable that names a folder with libnvrtc, when the dynamic linker does not find it by itself.
pub const NVRTC_VARIABLE: &str = "NATRON_NVRTC";

/// What can go wrong on the way to a GPU.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    /// `libcuda` cannot be loaded.
    #[error("there is no NVIDIA driver: `libcuda.so.1` was not found")]
    NoDriver,
    /// `libnvrtc` cannot be loaded.
    #[error(
        "`libnvrtc` was not found; install it (pip install nvidia-cuda-nvrtc) and name its folder in {NVRTC_VARIABLE} or LD_LIBRARY_PATH"
    )]
    NoCompiler,
    /// The driver knows fewer cards.
    #[error("there is no card {ordinal}: the driver knows {n_cards}")]
    NoCard {
        /// The card asked for.
        ordinal: usize,
        /// How many there are.
        n_cards: usize,
    },
    /// NVRTC refuses the source.
    #[error("a CUDA source does not compile for {architecture}: {log}")]
    Compile {
        /// As `sm_90`.
        architecture: String,
        /// What NVRTC says.
        log: String,
    },
    /// Any other failure of NVRTC.
    #[error("NVRTC failed: {0:?}")]
    Nvrtc(nvrtc::NvrtcError),
    /// A failure of the driver.
    #[error("the CUDA driver failed: {0}")]
    Driver(#[from] DriverError),
}

/// A card that the driver knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// As `NVIDIA H200`.
    pub name: String,
    /// As `sm_90`.
    pub architecture: String,
    /// Memory in bytes.
    pub memory_bytes: usize,
}

/// The cards that the driver knows.
pub fn cards() -> Result<Vec<Card>, CudaError> {
    if !has_driver() {
        return Err(CudaError::NoDriver);
    }
    let n_cards = CudaContext::device_count()?;
    let card = |ordinal| {
        let context = CudaContext::new(ordinal)?;
        Ok(Card {
            name: context.name()?,
            architecture: architecture(&context)?,
            memory_bytes: context.total_mem()?,
        })
    };
    (0..n_cards as usize).map(card).collect()
}

/// What the bits of results on the cards may depend on besides the source: the cards' architectures and NVRTC's version, as
/// `sm_90, NVRTC 13.0`. The first call decides for the process.
pub fn class() -> &'static Result<String, CudaError> {
    static CLASS: OnceLock<Result<String, CudaError>> = OnceLock::new();
    CLASS.get_or_init(|| {
        let cards = cards()?;
        if cards.is_empty() {
            return Err(CudaError::NoCard {
                ordinal: 0,
                n_cards: 0,
            });
        }
        let (major, minor) = nvrtc_version(&[]).ok_or(CudaError::NoCompiler)?;
        let architectures: BTreeSet<String> =
            cards.into_iter().map(|card| card.architecture).collect();
        let architectures: Vec<String> = architectures.into_iter().collect();
        Ok(format!(
            "{}, NVRTC {major}.{minor}",
            architectures.join(" ")
        ))
    })
}

/// The number that the driver gives to the card that `CUDA_VISIBLE_DEVICES` calls `id`: it counts those that are visible.
fn visible_ordinal(id: u32, visible: Option<&str>) -> usize {
    let listed = visible.into_iter().flat_map(|list| list.split(','));
    let position = listed
        .map(|entry| entry.trim().parse() == Ok(id))
        .position(|is_it| is_it);
    position.unwrap_or(id as usize)
}

fn architecture(context: &CudaContext) -> Result<String, DriverError> {
    let (major, minor) = context.compute_capability()?;
    Ok(format!("sm_{major}{minor}"))
}

fn has_driver() -> bool {
    // SAFETY: loading the driver's library runs its initializers, which expect nothing of the caller.
    unsafe { cudarc::driver::sys::is_culib_present() }
}

/// NVRTC's version, major and minor; nothing where it cannot be loaded. It is looked for where the dynamic linker looks,
/// then in the folder that [`NVRTC_VARIABLE`] names, then in `folders`; the first call decides.
pub fn nvrtc_version(folders: &[PathBuf]) -> Option<(i32, i32)> {
    static VERSION: OnceLock<Option<(i32, i32)>> = OnceLock::new();
    *VERSION.get_or_init(|| {
        let named = std::env::var_os(NVRTC_VARIABLE).map(PathBuf::from);
        let mut folders = named.into_iter().chain(folders.iter().cloned());
        if !has_nvrtc() && !folders.any(|folder| load_nvrtc(&folder)) {
            return None;
        }
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the library is there, and both pointers are to integers.
        let answer = unsafe { nvrtc_sys::nvrtcVersion(&raw mut major, &raw mut minor) };
        answer.result().is_ok().then_some((major, minor))
    })
}

fn has_nvrtc() -> bool {
    // SAFETY: loading NVRTC runs its initializers, which expect nothing of the caller.
    unsafe { cudarc::nvrtc::sys::is_culib_present() }
}

/// Loads the library from one folder. The dynamic linker then knows it by its name, so that cudarc finds it.
fn load_nvrtc(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else {
        return false;
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().any(|path| {
        let name = path.file_name().unwrap_or_default().as_bytes();
        let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
            return false;
        };
        name.starts_with(b"libnvrtc.so")
            // SAFETY: the path is a string with an end; the library's initializers expect nothing of the caller.
            && !unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) }.is_null()
            && has_nvrtc()
    })
}

/// The machine code of a CUDA source for an architecture as `sm_90`. No product of two floating-point numbers is fused with
/// a sum unless the source says so, as on the CPU.
pub fn compile(source: &str, architecture: &str) -> Result<Vec<u8>, CudaError> {
    nvrtc_version(&[]).ok_or(CudaError::NoCompiler)?;
    let failed = CudaError::Nvrtc;
    let text = CString::new(source).map_err(|_| CudaError::Compile {
        architecture: architecture.to_owned(),
        log: "the source contains a zero byte".to_owned(),
    })?;
    let program = nvrtc::create_program(&text, Some(c"natron.cu")).map_err(failed)?;
    let options = options(architecture);
    // SAFETY: `program` was created above and is destroyed once, below; the options are strings.
    let compiled = unsafe { nvrtc::compile_program(program, &options) };
    let result = match compiled {
        Err(_) => Err(CudaError::Compile {
            architecture: architecture.to_owned(),
            log: log(program),
        }),
        Ok(()) => machine_code(program).map_err(failed),
    };
    // SAFETY: the last use of `program`.
    unsafe { nvrtc::destroy_program(program) }.map_err(failed)?;
    result
}

/// What NVRTC says about a program.
fn log(program: nvrtc_sys::nvrtcProgram) -> String {
    // SAFETY: the caller's program lives.
    match unsafe { nvrtc::get_program_log(program) } {
        Err(error) => format!("{error:?}"),
        Ok(log) => {
            let bytes: Vec<u8> = log.iter().map(|byte| *byte as u8).collect();
            String::from_utf8_lossy(&bytes)
                .trim_end_matches('\0')
                .to_owned()
        }
    }
}

fn options(architecture: &str) -> Vec<String> {
    vec![
        format!("--gpu-architecture={architecture}"),
        "--fmad=false".to_owned(),
        "--std=c++17".to_owned(),
    ]
}

fn machine_code(program: nvrtc_sys::nvrtcProgram) -> Result<Vec<u8>, nvrtc::NvrtcError> {
    let mut n_bytes = 0;
    // SAFETY: `program` is compiled, and the pointer is to an integer.
    unsafe { nvrtc_sys::nvrtcGetCUBINSize(program, &raw mut n_bytes) }.result()?;
    let mut code = vec![0_u8; n_bytes];
    // SAFETY: `program` is compiled, and `code` has as many bytes as NVRTC has just asked for.
    unsafe { nvrtc_sys::nvrtcGetCUBIN(program, code.as_mut_ptr().cast()) }.result()?;
    Ok(code)
}

/// [`compile`], or what an earlier call with the same source, architecture and NVRTC left in `folder`. A folder that cannot
/// be written to, or a file in it that is damaged, costs the time to compile and nothing else.
pub fn compile_once(
    source: &str,
    architecture: &str,
    folder: Option<&Path>,
) -> Result<Vec<u8>, CudaError> {
    let Some(folder) = folder else {
        return compile(source, architecture);
    };
    let version = nvrtc_version(&[]).ok_or(CudaError::NoCompiler)?;
    let mut key = blake3::Hasher::new();
    key.update(format!("{version:?} {:?}\n", options(architecture)).as_bytes());
    key.update(source.as_bytes());
    let path = folder.join(format!("{}.cubin", key.finalize().to_hex()));
    if let Some(code) = kept(&path) {
        return Ok(code);
    }
    let code = compile(source, architecture)?;
    let mut bytes = code.clone();
    bytes.extend_from_slice(blake3::hash(&code).as_bytes());
    let temporary = path.with_extension(format!("{}.part", std::process::id()));
    let written = fs::create_dir_all(folder)
        .and_then(|()| fs::write(&temporary, bytes))
        .and_then(|()| fs::rename(&temporary, &path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    Ok(code)
}

/// The code of a file that ends in the code's digest.
fn kept(path: &Path) -> Option<Vec<u8>> {
    let mut code = fs::read(path).ok()?;
    let digest = code.split_off(code.len().checked_sub(blake3::OUT_LEN)?);
    (blake3::hash(&code).as_bytes() == digest.as_slice()).then_some(code)
}

/// A card with a queue of work.
#[derive(Debug, Clone)]
pub struct Gpu {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    architecture: String,
}

impl Gpu {
    /// Opens card `ordinal`, counted from 0.
    pub fn open(ordinal: usize) -> Result<Self, CudaError> {
        if !has_driver() {
            return Err(CudaError::NoDriver);
        }
        let n_cards = CudaContext::device_count()? as usize;
        if ordinal >= n_cards {
            return Err(CudaError::NoCard { ordinal, n_cards });
        }
        let context = CudaContext::new(ordinal)?;
        Ok(Self {
            architecture: architecture(&context)?,
            stream: context.default_stream(),
            context,
        })
    }

    /// Opens the card that `CUDA_VISIBLE_DEVICES` calls `id`.
    pub fn open_visible(id: u32) -> Result<Self, CudaError> {
        let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
        Self::open(visible_ordinal(id, visible.as_deref()))
    }

    /// As `sm_90`.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// As `NVIDIA H200`.
    pub fn name(&self) -> Result<String, CudaError> {
        Ok(self.context.name()?)
    }

    /// The card's queue.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// The card.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// Bytes of shared memory that a block may have.
    pub fn shared_bytes(&self) -> Result<usize, CudaError> {
        let attribute = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        Ok(self.context.attribute(attribute)? as usize)
    }

    /// Compiles a source, or takes what is kept in `folder`, and loads it.
    pub fn load(&self, source: &str, folder: Option<&Path>) -> Result<Arc<CudaModule>, CudaError> {
        let code = compile_once(source, &self.architecture, folder)?;
        Ok(self.context.load_module(Ptx::from_binary(code))?)
    }
}

/// What the tests of CUDA sources share.
#[cfg(test)]
pub(crate) mod check {
    use super::*;

    /// The architectures that every source is compiled for.
    pub(crate) const ARCHITECTURES: [&str; 3] = ["sm_80", "sm_90", "sm_90a"];

    /// Whether NVRTC is there; says so when it is not.
    pub(crate) fn has_compiler() -> bool {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/nvrtc/nvidia");
        let folders: Vec<PathBuf> = ["cu13/lib", "cuda_nvrtc/lib"]
            .iter()
            .map(|folder| target.join(folder))
            .collect();
        let is_there = nvrtc_version(&folders).is_some();
        if !is_there {
            eprintln!(
                "skipped: no libnvrtc (pip install --target target/nvrtc nvidia-cuda-nvrtc, or name its folder in {NVRTC_VARIABLE})"
            );
        }
        is_there
    }

    /// A card, where there is one; says so when there is none, and fails when `REQUIRE_GPU=1` demands one.
    pub(crate) fn gpu() -> Option<Gpu> {
        let opened = has_compiler().then(|| Gpu::open(0));
        let is_required = std::env::var_os("REQUIRE_GPU").is_some_and(|value| value == "1");
        match opened {
            Some(Ok(gpu)) => Some(gpu),
            other => {
                assert!(
                    !is_required,
                    "REQUIRE_GPU=1, but there is no GPU: {other:?}"
                );
                {
                    eprintln!("skipped: no GPU");
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{check::has_compiler, *};

    const SOURCE: &str = "extern \"C\" __global__ void twice(double* x) { x[threadIdx.x] *= 2.0; }";

    #[test]
    fn a_mistake_in_a_source_is_told_with_its_line() {
        if !has_compiler() {
            return;
        }

        let error = compile("__global__ void f() {\n  nonsense;\n}", "sm_80").unwrap_err();

        let text = error.to_string();
        assert!(
            text.contains("natron.cu(2)") && text.contains("nonsense"),
            "{text}"
        );
    }

    #[test]
    fn code_is_kept_and_a_damaged_file_is_made_again() {
        if !has_compiler() {
            return;
        }
        let folder = std::env::temp_dir().join(format!("natron-cubin-{}", std::process::id()));
        let first = compile_once(SOURCE, "sm_80", Some(&folder)).unwrap();
        let path = fs::read_dir(&folder)
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        assert_eq!(kept(&path).unwrap(), first);

        fs::write(&path, &first[..100]).unwrap();
        let second = compile_once(SOURCE, "sm_80", Some(&folder)).unwrap();

        assert_eq!(second.len(), first.len());
        assert_eq!(kept(&path).unwrap(), second);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_driver_counts_the_cards_that_are_visible() {
        assert_eq!(visible_ordinal(3, None), 3);
        assert_eq!(visible_ordinal(3, Some("5, 3")), 1);
        assert_eq!(visible_ordinal(0, Some("0,1")), 0);
        assert_eq!(visible_ordinal(2, Some("GPU-1f,2")), 1);
    }

    #[test]
    fn a_missing_card_is_an_error() {
        let error = Gpu::open(1000).unwrap_err();

        assert!(matches!(
            error,
            CudaError::NoDriver | CudaError::NoCard { .. } | CudaError::Driver(_)
        ));
    }
}
