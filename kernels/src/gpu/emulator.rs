//! The emulator as a device: kernels compiled as a shared library (`kernels/emulator`), called by
//! name. A test double: it proves logic, not speed.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::path::Path;
use std::rc::Rc;

use super::{Backend, Card, Gpu, GpuError, Launch};

type EmuLaunch = unsafe extern "C" fn(
    *const c_char,
    *const c_uint,
    *const c_uint,
    usize,
    *mut *mut c_void,
    *const c_char,
) -> c_int;

/// The functions of one library. Libraries are never unloaded: their threads' state outlives them.
#[derive(Clone, Copy, Debug)]
struct Library {
    launch: EmuLaunch,
    last_error: unsafe extern "C" fn() -> *const c_char,
    set_seed: unsafe extern "C" fn(u64),
    ldmatrix_statistics: unsafe extern "C" fn(*mut u64, *mut u64),
    allocate: unsafe extern "C" fn(usize) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void),
    host_wrote: unsafe extern "C" fn(*const c_void, usize),
    forget: unsafe extern "C" fn(*mut c_void, usize),
}

/// Emulated kernels. Its state, device memory included, belongs to the thread that uses it.
#[derive(Debug)]
pub struct Emulator {
    card: Card,
    library: Library,
}

/// Shared memory reads of `ldmatrix`: groups of eight rows, and rows that had to wait for another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LdmatrixStatistics {
    pub phases: u64,
    pub conflicts: u64,
}

impl Emulator {
    /// Loads a library that `kernels/emulator` was compiled to. Launchers cut their work for a card of
    /// so many multiprocessors; blocks run one after the other all the same.
    ///
    /// # Errors
    /// When the file is no such library, in the loader's words.
    pub fn load(path: &Path, multiprocessors: u32) -> Result<Rc<Emulator>, GpuError> {
        Ok(Rc::new(Emulator {
            card: Card {
                name: "emulator".to_owned(),
                capability: 80,
                multiprocessors,
                shared_bytes_per_block: 163 << 10,
            },
            library: Library::load(path)?,
        }))
    }

    /// A device on it.
    pub fn gpu(self: &Rc<Emulator>) -> Gpu {
        Gpu::new(Rc::clone(self) as Rc<dyn Backend>)
    }

    /// In which order this thread's launches run: 0 in order, 1 reversed, others random.
    pub fn set_seed(&self, seed: u64) {
        // SAFETY: a function of the library that takes a number.
        unsafe { (self.library.set_seed)(seed) }
    }

    /// Since the last call.
    pub fn take_ldmatrix_statistics(&self) -> LdmatrixStatistics {
        let mut taken = LdmatrixStatistics::default();
        // SAFETY: the two places it writes are unique borrows.
        unsafe {
            (self.library.ldmatrix_statistics)(&raw mut taken.phases, &raw mut taken.conflicts)
        }
        taken
    }
}

impl Backend for Emulator {
    fn card(&self) -> &Card {
        &self.card
    }

    fn allocate(&self, bytes: usize) -> Result<u64, GpuError> {
        // SAFETY: takes a number and answers null or memory that stays until it is freed.
        let address = unsafe { (self.library.allocate)(bytes) };
        match address.is_null() {
            true => Err(GpuError::OutOfMemory { bytes }),
            false => Ok(address.expose_provenance() as u64),
        }
    }

    fn free(&self, address: u64) {
        // SAFETY: the heap ignores what it did not allocate.
        unsafe { (self.library.free)(pointer(address)) }
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), GpuError> {
        // SAFETY: `Memory` checked that its allocation holds so many bytes.
        unsafe { pointer::<u8>(address).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        // SAFETY: as above; what it changes is the race checker's own.
        unsafe { (self.library.host_wrote)(pointer(address), bytes.len()) };
        Ok(())
    }

    fn forget(&self, address: u64, bytes: usize) {
        // SAFETY: `Memory` checked that its allocation holds so many bytes.
        unsafe { (self.library.forget)(pointer(address), bytes) }
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), GpuError> {
        // SAFETY: `Memory` checked that its allocation holds so many bytes, all of them poisoned or
        // written.
        unsafe { pointer::<u8>(address).copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<(), GpuError> {
        let text = |text: &str| CString::new(text).map_err(|e| GpuError::Emulator(e.to_string()));
        let (kernel, kinds) = (text(launch.kernel)?, text(launch.arguments.kinds())?);
        let mut words = launch.arguments.words().to_vec();
        let mut pointers: Vec<*mut c_void> =
            words.iter_mut().map(|w| (&raw mut *w).cast()).collect();
        let threads = [launch.threads, 1, 1];
        // SAFETY: the library holds the kinds of the arguments against the kernel's parameters and
        // refuses others; that memory is as long as the kernel takes it to be is what the emulator
        // is there to find out.
        let code = unsafe {
            (self.library.launch)(
                kernel.as_ptr(),
                launch.grid.as_ptr(),
                threads.as_ptr(),
                launch.shared_bytes as usize,
                pointers.as_mut_ptr(),
                kinds.as_ptr(),
            )
        };
        if code == 0 {
            return Ok(());
        }
        // SAFETY: a text of the library that lives until this thread's next launch.
        let error = unsafe { CStr::from_ptr((self.library.last_error)()) };
        Err(GpuError::Emulator(error.to_string_lossy().into_owned()))
    }

    fn synchronize(&self) -> Result<(), GpuError> {
        Ok(())
    }
}

fn pointer<T>(address: u64) -> *mut T {
    std::ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap_or(0))
}

impl Library {
    #[expect(
        clippy::missing_transmute_annotations,
        reason = "the field that it fills says the type"
    )]
    fn load(path: &Path) -> Result<Library, GpuError> {
        let failed = |what: String| GpuError::Emulator(format!("{}: {what}", path.display()));
        let name = CString::new(path.to_string_lossy().into_owned())
            .map_err(|error| failed(error.to_string()))?;
        // SAFETY: loading runs the library's initialisers: registrations of kernels, nothing else.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            return Err(failed(loader_error()));
        }
        let symbol = |name: &CStr| {
            // SAFETY: the handle is open and never closed.
            let address = unsafe { libc::dlsym(handle, name.as_ptr()) };
            match address.is_null() {
                true => Err(failed(format!("has no {}", name.to_string_lossy()))),
                false => Ok(address),
            }
        };
        macro_rules! function {
            ($name:literal) => {{
                let address = symbol($name)?;
                // SAFETY: the library's function of this name has this signature (launch.cpp,
                // heap.cpp).
                unsafe { std::mem::transmute(address) }
            }};
        }
        Ok(Library {
            launch: function!(c"emu_launch"),
            last_error: function!(c"emu_last_error"),
            set_seed: function!(c"emu_set_seed"),
            ldmatrix_statistics: function!(c"emu_ldmatrix_statistics"),
            allocate: function!(c"emu_allocate"),
            free: function!(c"emu_free"),
            host_wrote: function!(c"emu_host_wrote"),
            forget: function!(c"emu_forget"),
        })
    }
}

fn loader_error() -> String {
    // SAFETY: answers null or this thread's last loader error, which lives until the next call.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "the loader gives no reason".to_owned();
    }
    // SAFETY: not null, so it is the loader's text.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}
