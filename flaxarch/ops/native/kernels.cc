// Convolutions by oneDNN, as XLA's custom calls on CPU.
//
// The work of a call is cut into tasks, each for some of the images (or some rows of one), and these run on
// XLA's own threads, each in a oneDNN that is told to use one thread. So there is one pool of threads in the
// process: a second one, of OpenMP, would fight with XLA's for the cores. A call returns at once, with a
// future, and XLA goes on to what does not depend on it.
//
// All arrays are dense: images (N, H, W, C), kernels (h, w, C / groups, features).

#include "convolution.h"

namespace flaxarch {
namespace {

using Any = ffi::AnyBuffer;
using AnyResult = ffi::Result<ffi::AnyBuffer>;
using Geometry = ffi::Span<const int64_t>;

ffi::Future forward(ffi::ThreadPool pool, Any x, Any w, AnyResult y, Geometry geometry) {
  return convolve(kForward, pool, x, w, *y, geometry);
}
ffi::Future image_gradient(ffi::ThreadPool pool, Any y, Any w, AnyResult x, Geometry geometry) {
  return convolve(kImageGradient, pool, *x, w, y, geometry);
}
ffi::Future kernel_gradient(ffi::ThreadPool pool, Any x, Any y, AnyResult w, Geometry geometry) {
  return convolve(kKernelGradient, pool, x, *w, y, geometry);
}

}  // namespace
}  // namespace flaxarch

// Why oneDNN can't convolve here, with the arrays in bfloat16 or in float32; null if it can.
extern "C" __attribute__((visibility("default"))) const char* flaxarch_problem(bool bfloat16) {
  static thread_local std::string problem;
  try {
    const auto type = bfloat16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
    for (auto kind : {flaxarch::kForward, flaxarch::kImageGradient, flaxarch::kKernelGradient}) {
      flaxarch::make_plan({kind, type, 1, 4, 4, 16, 4, 4, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1});
    }
    return nullptr;
  } catch (const std::exception& e) {
    problem = e.what();
  } catch (...) {
    problem = "unknown error";
  }
  return problem.c_str();
}

#define FLAXARCH_OF_TWO(symbol, function)                        \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(symbol, flaxarch::function,      \
                                xla::ffi::Ffi::Bind()            \
                                    .Ctx<xla::ffi::ThreadPool>() \
                                    .Arg<xla::ffi::AnyBuffer>()  \
                                    .Arg<xla::ffi::AnyBuffer>()  \
                                    .Ret<xla::ffi::AnyBuffer>()  \
                                    .Attr<xla::ffi::Span<const int64_t>>("geometry"))

FLAXARCH_OF_TWO(flaxarch_conv, forward);
FLAXARCH_OF_TWO(flaxarch_conv_dx, image_gradient);
FLAXARCH_OF_TWO(flaxarch_conv_dw, kernel_gradient);
