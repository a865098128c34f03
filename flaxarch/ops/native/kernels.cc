// Convolutions by oneDNN and max-pooling by plain loops, as XLA's custom calls on CPU.
//
// The work of a call is cut into tasks, each for some of the images (or some rows of one), and these run on
// XLA's own threads, each in a oneDNN that is told to use one thread. So there is one pool of threads in the
// process: a second one, of OpenMP, would fight with XLA's for the cores. A call returns at once, with a
// future, and XLA goes on to what does not depend on it.
//
// All arrays are dense: images (N, H, W, C), kernels (h, w, C / groups, features).

#include "channel_sums.h"
#include "convolution.h"
#include "max_pool.h"

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

// The tasks run after the call has returned, when its buffers' descriptions are gone: they hold the data
// alone.
template <typename To>
To* as(void* data) {
  return static_cast<To*>(data);
}

ffi::Future max_pool(ffi::ThreadPool threads, Any x, AnyResult y, AnyResult place, Geometry geometry) {
  return pool_rows(threads, x, *y, geometry, false,
                   [x = x.untyped_data(), y = y->untyped_data(), place = as<uint8_t>(place->untyped_data())](
                       const Pool& p, bool bfloat16, int64_t first, int64_t last) {
                     if (bfloat16) {
                       maxima_of(p, as<uint16_t>(x), as<uint16_t>(y), place, first, last);
                     } else {
                       maxima_of(p, as<float>(x), as<float>(y), place, first, last);
                     }
                   });
}

ffi::Future max_pool_take(ffi::ThreadPool threads, Any x, Any place, AnyResult y, Geometry geometry) {
  return pool_rows(threads, x, *y, geometry, false,
                   [x = x.untyped_data(), y = y->untyped_data(), place = as<uint8_t>(place.untyped_data())](
                       const Pool& p, bool bfloat16, int64_t first, int64_t last) {
                     if (bfloat16) {
                       values_of(p, as<uint16_t>(x), place, as<uint16_t>(y), first, last);
                     } else {
                       values_of(p, as<float>(x), place, as<float>(y), first, last);
                     }
                   });
}

ffi::Future max_pool_spread(ffi::ThreadPool threads, Any y, Any place, AnyResult x, Geometry geometry) {
  return pool_rows(threads, *x, y, geometry, true,
                   [x = x->untyped_data(), y = y.untyped_data(), place = as<uint8_t>(place.untyped_data())](
                       const Pool& p, bool bfloat16, int64_t first, int64_t last) {
                     if (bfloat16) {
                       spread_of(p, as<uint16_t>(y), place, as<uint16_t>(x), first, last);
                     } else {
                       spread_of(p, as<float>(y), place, as<float>(x), first, last);
                     }
                   });
}

ffi::Future moments(ffi::ThreadPool threads, Any x, Any center, AnyResult y) {
  return channel_sums(threads, nullptr, x, center, *y);
}

ffi::Future products(ffi::ThreadPool threads, Any a, Any b, Any center, AnyResult y) {
  if (a.element_type() != ffi::DataType::F32 || a.element_count() != b.element_count()) {
    return failed("flaxarch's CPU kernel expects two float32 arrays of one shape");
  }
  return channel_sums(threads, as<const float>(a.untyped_data()), b, center, *y);
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
XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxarch_max_pool, flaxarch::max_pool,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Attr<xla::ffi::Span<const int64_t>>("geometry"));
FLAXARCH_OF_TWO(flaxarch_max_pool_take, max_pool_take);
FLAXARCH_OF_TWO(flaxarch_max_pool_spread, max_pool_spread);
XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxarch_moments, flaxarch::moments,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxarch_products, flaxarch::products,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>());
