//! A card through the CUDA driver, which is loaded at run time: the program starts without it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::rc::Rc;
use std::sync::Arc;

use cudarc::driver::sys::{
    CUdevice_attribute as Attribute, CUfunction, CUfunction_attribute, CUmodule,
};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};

use super::{Backend, Card, Gpu, GpuError, Launch, image};
use crate::card::Found;

/// One card with its primary context and one stream. Modules stay loaded for good.
#[derive(Debug)]
pub struct Cuda {
    card: Card,
    /// The driver's.
    version: i32,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    modules: RefCell<HashMap<&'static str, CUmodule>>,
    functions: RefCell<HashMap<String, CUfunction>>,
}

fn failed(call: &'static str) -> impl Fn(DriverError) -> GpuError {
    move |error| GpuError::Driver {
        call,
        reason: error.to_string(),
    }
}

/// The driver's version, e.g. 13000; an error where there is no driver or no card.
///
/// # Errors
/// When the driver's library is missing or refuses to start.
pub fn version() -> Result<i32, GpuError> {
    // SAFETY: opens the driver's library by name and looks whether that worked.
    let is_present = unsafe { sys::is_culib_present() };
    if !is_present {
        return Err(GpuError::NoDevice {
            reason: "libcuda is not on this machine".to_owned(),
        });
    }
    result::init().map_err(|error| GpuError::NoDevice {
        reason: error.to_string(),
    })?;
    let mut version = 0;
    // SAFETY: writes one number to a unique borrow.
    let code = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    code.result().map_err(failed("cuDriverGetVersion"))?;
    Ok(version)
}

/// Every card of this machine.
///
/// # Errors
/// As [`version`], or when a card does not open.
pub fn cards() -> Result<Vec<Found>, GpuError> {
    version()?;
    let count = CudaContext::device_count().map_err(failed("cuDeviceGetCount"))?;
    let mut found = Vec::new();
    for index in 0..usize::try_from(count).unwrap_or(0) {
        let cuda = Cuda::open(index)?;
        let (free, total) = cuda.memory()?;
        found.push(Found {
            index,
            name: cuda.card.name.clone(),
            capability: cuda.card.capability,
            total_bytes: total,
            free_bytes: free,
        });
    }
    Ok(found)
}

impl Cuda {
    /// The card number `index`.
    ///
    /// # Errors
    /// When there is no driver, no such card, or it does not open.
    pub fn open(index: usize) -> Result<Rc<Cuda>, GpuError> {
        let version = version()?;
        let context = CudaContext::new(index).map_err(|error| GpuError::NoDevice {
            reason: format!("card {index}: {error}"),
        })?;
        let stream = context.new_stream().map_err(failed("cuStreamCreate"))?;
        let attribute = |attribute| {
            context
                .attribute(attribute)
                .map_err(failed("cuDeviceGetAttribute"))
        };
        let number = |value: i32| u32::try_from(value).unwrap_or(0);
        let (major, minor) = context
            .compute_capability()
            .map_err(failed("cuDeviceGetAttribute"))?;
        let card = Card {
            name: context.name().map_err(failed("cuDeviceGetName"))?,
            capability: number(major) * 10 + number(minor),
            multiprocessors: number(attribute(
                Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
            )?),
            shared_bytes_per_block: number(attribute(
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            )?),
        };
        Ok(Rc::new(Cuda {
            card,
            version,
            context,
            stream,
            modules: RefCell::default(),
            functions: RefCell::default(),
        }))
    }

    /// A device on it.
    pub fn gpu(self: &Rc<Cuda>) -> Gpu {
        Gpu::new(Rc::clone(self) as Rc<dyn Backend>)
    }

    /// Bytes free and in all, of everybody on the card.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn memory(&self) -> Result<(u64, u64), GpuError> {
        let (free, total) = self
            .context
            .mem_get_info()
            .map_err(failed("cuMemGetInfo"))?;
        Ok((free as u64, total as u64))
    }

    /// Seconds between two points of the stream: before and after `work`, which must only launch.
    ///
    /// # Errors
    /// When `work` or the driver fails.
    pub fn time(&self, work: impl FnOnce() -> Result<(), GpuError>) -> Result<f64, GpuError> {
        image::check_driver(self.version)?;
        let flags = sys::CUevent_flags::CU_EVENT_DEFAULT;
        let record = || {
            self.stream
                .record_event(Some(flags))
                .map_err(failed("cuEventRecord"))
        };
        let before = record()?;
        work()?;
        let after = record()?;
        after.synchronize().map_err(failed("cuEventSynchronize"))?;
        let milliseconds = before
            .elapsed_ms(&after)
            .map_err(failed("cuEventElapsedTime"))?;
        Ok(f64::from(milliseconds) / 1e3)
    }

    /// Copies within the card's memory.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn copy(&self, from: super::Tensor<'_>, to: &super::TensorMut<'_>) -> Result<(), GpuError> {
        let bytes = from.count() * from.kind().bytes();
        to.check("copy", "to", from.kind(), from.count(), 1)?;
        self.bind()?;
        // SAFETY: both ranges were checked to be `bytes` long; `to` is a unique view.
        unsafe {
            result::memcpy_dtod_async(to.address(), from.address(), bytes, self.stream.cu_stream())
        }
        .map_err(failed("cuMemcpyDtoDAsync"))
    }

    fn bind(&self) -> Result<(), GpuError> {
        self.context
            .bind_to_thread()
            .map_err(failed("cuCtxSetCurrent"))
    }

    fn function(&self, launch: &Launch<'_>) -> Result<CUfunction, GpuError> {
        if let Some(function) = self.functions.borrow().get(launch.kernel) {
            return Ok(*function);
        }
        let module = self.module(launch.op)?;
        let name = CString::new(launch.kernel).map_err(|error| GpuError::Driver {
            call: "cuModuleGetFunction",
            reason: error.to_string(),
        })?;
        // SAFETY: modules are never unloaded.
        let function = unsafe { result::module::get_function(module, name) }
            .map_err(failed("cuModuleGetFunction"))?;
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let most = self
            .card
            .shared_bytes_per_block
            .saturating_sub(static_bytes(function)?);
        let most = i32::try_from(most).unwrap_or(i32::MAX);
        // SAFETY: the function was just found.
        unsafe { result::function::set_function_attribute(function, attribute, most) }
            .map_err(failed("cuFuncSetAttribute"))?;
        self.functions
            .borrow_mut()
            .insert(launch.kernel.to_owned(), function);
        Ok(function)
    }

    fn module(&self, op: &'static str) -> Result<CUmodule, GpuError> {
        if let Some(module) = self.modules.borrow().get(op) {
            return Ok(*module);
        }
        image::check_driver(self.version)?;
        let bytes = image::find(op, self.card.capability)?;
        // SAFETY: the image is a whole fatbin that nvcc made (its length is in its own header).
        let loaded = unsafe { result::module::load_data(bytes.as_ptr().cast()) };
        let module = loaded.map_err(|error| match error.0 {
            sys::CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU => GpuError::NoCode {
                op,
                capability: self.card.capability,
                targets: image::TARGETS.join(", "),
            },
            _ => failed("cuModuleLoadData")(error),
        })?;
        self.modules.borrow_mut().insert(op, module);
        Ok(module)
    }
}

/// Shared memory that a kernel declares itself.
fn static_bytes(function: CUfunction) -> Result<u32, GpuError> {
    let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
    // SAFETY: the caller just found the function.
    let bytes = unsafe { result::function::get_function_attribute(function, attribute) }
        .map_err(failed("cuFuncGetAttribute"))?;
    Ok(u32::try_from(bytes).unwrap_or(0))
}

impl Backend for Cuda {
    fn card(&self) -> &Card {
        &self.card
    }

    fn allocate(&self, bytes: usize) -> Result<u64, GpuError> {
        self.bind()?;
        // SAFETY: the memory is given to one `Memory`, which frees it once.
        unsafe { result::malloc_sync(bytes) }.map_err(|error| match error.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => GpuError::OutOfMemory { bytes },
            _ => failed("cuMemAlloc")(error),
        })
    }

    fn free(&self, address: u64) {
        // Launches that still use it come first; this binds the context, too.
        let _ = self.synchronize();
        // SAFETY: `allocate` gave this address, and its one `Memory` is being dropped. An error
        // here is one of an earlier launch, and shows at the next call.
        let _ = unsafe { result::free_sync(address) };
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), GpuError> {
        self.bind()?;
        if !bytes.is_empty() {
            // On our own stream: the plain copy runs on another one, which ours does not wait for,
            // and may return before its last bytes arrive.
            // SAFETY: `Memory` checked that its allocation holds so many bytes, and `bytes` outlives
            // the copy, which is waited for.
            unsafe { result::memcpy_htod_async(address, bytes, self.stream.cu_stream()) }
                .map_err(failed("cuMemcpyHtoDAsync"))?;
        }
        self.synchronize()
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), GpuError> {
        self.synchronize()?;
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: `Memory` checked that its allocation holds so many bytes.
        unsafe { result::memcpy_dtoh_sync(bytes, address) }.map_err(failed("cuMemcpyDtoH"))
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<(), GpuError> {
        self.bind()?;
        let function = self.function(launch)?;
        let mut words = launch.arguments.words().to_vec();
        let mut pointers: Vec<*mut c_void> =
            words.iter_mut().map(|w| (&raw mut *w).cast()).collect();
        let [x, y, z] = launch.grid;
        // SAFETY: the function is one of a module that stays loaded. Order and types of the
        // arguments are the kernel's: the emulator refuses others, for every kernel, in every test
        // run. The launcher checked that the memory is as long as the kernel takes it to be, and
        // its views keep it alive; the driver copies the arguments before this returns.
        unsafe {
            result::launch_kernel(
                function,
                (x, y, z),
                (launch.threads, 1, 1),
                launch.shared_bytes,
                self.stream.cu_stream(),
                &mut pointers,
            )
        }
        .map_err(failed("cuLaunchKernel"))
    }

    fn synchronize(&self) -> Result<(), GpuError> {
        self.stream
            .synchronize()
            .map_err(failed("cuStreamSynchronize"))
    }
}
