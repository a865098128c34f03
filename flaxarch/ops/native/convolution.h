// Convolution and its two gradients by oneDNN.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "bfloat16.h"
#include "plan.h"
#include "tasks.h"

namespace flaxarch {

// Rows `first` to `last` of a kernel, each the features of one input at one place, from our layout to the
// plan's.
void pack_rows(const Conv& c, const Plan& plan, const float* kernel, float* packed, int64_t first,
               int64_t last) {
  const auto strides = plan.w.get_strides();
  for (int64_t row = first; row < last; ++row) {
    const int64_t input = row % c.channels, place = row / c.channels;
    const float* from = kernel + row * c.features;
    float* to = packed + input * strides[1] + place / c.window_width * strides[2] +
                place % c.window_width * strides[3];
    for (int64_t f = 0; f < c.features; f += plan.block, to += strides[0]) {
      const int64_t there = std::min(plan.block, c.features - f);
      std::memcpy(to, from + f, there * sizeof(float));
      std::memset(to + there, 0, (plan.block - there) * sizeof(float));
    }
  }
}

// A kernel in the layout that a convolution wants, for all its tasks, packed by those that come first: each
// takes pieces until none is left, and then waits for the others to finish theirs. Only pieces that a running
// task has taken are waited for, so that any number of threads comes to an end.
class Packed {
 public:
  Packed(const Conv& conv, std::shared_ptr<const Plan> plan, char* kernel)
      : conv_(conv),
        plan_(std::move(plan)),
        kernel_(kernel),
        packed_(plan_->w.get_size()),
        rows_(conv.window_height * conv.window_width * conv.channels),
        pieces_(plan_->block == 0 ? 1 : std::min(rows_, (conv.w_size() + kPiece - 1) / kPiece)) {}

  // The packed kernel, when it is done.
  char* get() {
    for (int64_t i; (i = taken_.fetch_add(1)) < pieces_;) {
      try {
        pack(i);
      } catch (...) {
        failed_ = true;
        throw;
      }
      done_.fetch_add(1);
    }
    while (done_.load() < pieces_) {
      if (failed_) throw std::runtime_error("its kernel could not be packed");
      std::this_thread::yield();
    }
    return packed_.get();
  }

 private:
  static constexpr int64_t kPiece = 1 << 14;  // numbers

  void pack(int64_t i) {
    if (plan_->block == 0) return reorder(*plan_, at(plan_->hwio, kernel_), at(plan_->w, packed_.get()));
    pack_rows(conv_, *plan_, reinterpret_cast<float*>(kernel_), reinterpret_cast<float*>(packed_.get()),
              i * rows_ / pieces_, (i + 1) * rows_ / pieces_);
  }

  const Conv conv_;
  const std::shared_ptr<const Plan> plan_;
  char* const kernel_;
  const Scratch packed_;
  const int64_t rows_, pieces_;
  std::atomic<int64_t> taken_{0}, done_{0};
  std::atomic<bool> failed_{false};
};

// One task: x, w, y are where its images and the kernel begin, packed or to be; the result is among them.
void run(const Conv& c, const std::shared_ptr<const Plan>& own_plan, void* x, void* w, void* y) {
  const Plan& plan = *own_plan;
  const bool of_kernel = c.kind == kKernelGradient, of_images = c.kind == kImageGradient;
  const bool reorders = plan.reorders && of_kernel;
  const Scratch scratch(plan.scratchpad.get_size()), own(reorders ? plan.w.get_size() : 0);
  void* const kernel = reorders ? own.get() : w;
  Arguments& args = arguments_of(own_plan);
  const auto set = [&](int arg, const memory::desc& desc, void* data) {
    args.try_emplace(arg, desc, engine(), nullptr).first->second.set_data_handle(data);
  };
  set(of_images ? DNNL_ARG_DIFF_SRC : DNNL_ARG_SRC, plan.x, x);
  set(of_kernel ? DNNL_ARG_DIFF_WEIGHTS : DNNL_ARG_WEIGHTS, plan.w, kernel);
  set(c.kind == kForward ? DNNL_ARG_DST : DNNL_ARG_DIFF_DST, plan.y, y);
  set(DNNL_ARG_SCRATCHPAD, plan.scratchpad, scratch.get());
  execute(plan.conv, args);
  if (reorders) reorder(plan, at(plan.w, kernel), at(plan.hwio, w));
}

// A part of a convolution: some images, or some rows of one.
struct Part {
  Conv conv;
  int64_t x_offset, y_offset;  // in numbers
};

// Rows `first` to `last` of y, or for the images' gradient of x, as a convolution of their own with what they
// join; none where that would have to crop.
std::optional<Part> rows(const Conv& c, int64_t image, int64_t first, int64_t last) {
  const int64_t reach = (c.window_height - 1) * c.dilation_y, s = c.stride_y;
  int64_t x_first, x_last, y_first, y_last;
  if (c.kind == kImageGradient) {
    x_first = first;
    x_last = last;
    y_first = std::max<int64_t>(0, (first + c.top - reach + s - 1) / s);
    y_last = std::min(c.out_height, (last - 1 + c.top) / s + 1);
  } else {
    y_first = first;
    y_last = last;
    x_first = std::max<int64_t>(0, first * s - c.top);
    x_last = std::min(c.height, (last - 1) * s - c.top + reach + 1);
  }
  if (x_first >= x_last || y_first >= y_last) return std::nullopt;
  Part part{c, (image * c.height + x_first) * c.width * c.channels,
            (image * c.out_height + y_first) * c.out_width * c.features};
  Conv& rows = part.conv;
  rows.images = 1;
  rows.height = x_last - x_first;
  rows.out_height = y_last - y_first;
  rows.top = x_first + c.top - y_first * s;
  rows.bottom = std::max<int64_t>(0, (rows.out_height - 1) * s + reach + 1 - rows.height - rows.top);
  const bool fits = (rows.height + rows.top + rows.bottom - reach - 1) / s + 1 == rows.out_height;
  if (rows.top < 0 || !fits) return std::nullopt;
  return part;
}

// About as many parts as threads: of images, or where these are fewer, of rows.
std::vector<Part> parts_of(const Conv& c, int64_t threads) {
  const int64_t fewest_rows = c.window_height == 1 ? 1 : 3;  // others read their neighbours' rows as well
  constexpr int64_t kMostSums = 1 << 24;  // numbers in all parts' sums for the gradient of the kernel
  if (c.kind == kKernelGradient) threads = std::min(threads, std::max<int64_t>(2, kMostSums / c.w_size()));
  std::vector<Part> parts;
  const int64_t height = c.kind == kImageGradient ? c.height : c.out_height;
  const int64_t pieces = std::min(threads / c.images, height / fewest_rows);
  if (pieces > 1) {
    for (int64_t i = 0; i < c.images * pieces; ++i) {
      const int64_t piece = i % pieces;
      const auto part = rows(c, i / pieces, piece * height / pieces, (piece + 1) * height / pieces);
      if (!part) break;
      parts.push_back(*part);
    }
    if (static_cast<int64_t>(parts.size()) == c.images * pieces) return parts;
    parts.clear();
  }
  const int64_t tasks = std::min(c.images, threads);
  for (int64_t i = 0; i < tasks; ++i) {
    const int64_t first = i * c.images / tasks;
    Part part{c, first * c.x_image(), first * c.y_image()};
    part.conv.images = (i + 1) * c.images / tasks - first;
    parts.push_back(part);
  }
  return parts;
}

// geometry: strides, (top, bottom), (left, right), dilation, groups
ffi::Future convolve(Kind kind, ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer w, ffi::AnyBuffer y,
                     ffi::Span<const int64_t> geometry) try {
  const auto xs = x.dimensions(), ws = w.dimensions(), ys = y.dimensions();
  if (xs.size() != 4 || ws.size() != 4 || ys.size() != 4 || geometry.size() != 9) {
    return failed("flaxarch's CPU kernel expects four dimensions and nine numbers of geometry");
  }
  const bool bfloat16 = x.element_type() == ffi::DataType::BF16;
  if (!bfloat16 && x.element_type() != ffi::DataType::F32) {
    return failed("flaxarch's CPU kernel expects float32 or bfloat16");
  }
  const auto* g = geometry.begin();
  for (int i : {0, 1, 6, 7, 8}) {
    if (g[i] < 1) return failed("flaxarch's CPU kernel expects positive strides, dilation and groups");
  }
  if (xs[3] != ws[2] * g[8] || ys[3] != ws[3] || xs[0] != ys[0] || x.element_type() != w.element_type()) {
    return failed("flaxarch's CPU kernel expects arrays that fit each other");
  }
  const Conv c{kind,  bfloat16 ? memory::data_type::bf16 : memory::data_type::f32,
               xs[0], xs[1],
               xs[2], xs[3],
               ys[1], ys[2],
               ys[3], ws[0],
               ws[1], g[0],
               g[1],  g[2],
               g[3],  g[4],
               g[5],  g[6],
               g[7],  g[8]};
  const int64_t bytes = bfloat16 ? 2 : 4, w_size = c.w_size();
  auto *x_data = static_cast<char*>(x.untyped_data()), *y_data = static_cast<char*>(y.untyped_data());
  auto* w_data = static_cast<char*>(w.untyped_data());
  if (c.images == 0) {
    if (kind == kKernelGradient) std::memset(w_data, 0, w_size * bytes);
    return ready();
  }
  auto parts =
      std::make_shared<const std::vector<Part>>(parts_of(c, std::max<int64_t>(1, pool.num_threads())));
  const auto tasks = static_cast<int64_t>(parts->size());
  auto plan_of_part = [=](int64_t i) { return plan_of((*parts)[i].conv); };
  auto run_part = [=](int64_t i, const std::shared_ptr<const Plan>& plan, void* w) {
    const Part& part = (*parts)[i];
    run(part.conv, plan, x_data + part.x_offset * bytes, w, y_data + part.y_offset * bytes);
  };
  if (kind != kKernelGradient) {
    const auto plan = plan_of_part(0);
    const auto packed = plan->reorders ? std::make_shared<Packed>(c, plan, w_data) : nullptr;
    return in_parallel(pool, tasks, [=](int64_t i) {
      const auto own = plan_of_part(i);
      if (!own->reorders) return run_part(i, own, w_data);
      if (packed && own->w == plan->w) return run_part(i, own, packed->get());
      run_part(i, own, Packed(c, own, w_data).get());
    });
  }
  // Each task's own sum, and then the sum of these, always in the same order. The first is the result where
  // it can.
  const int64_t extra = bfloat16 ? tasks : tasks - 1;
  auto sums = std::make_shared<Scratch>(extra * w_size * sizeof(float));
  auto sum_of = [=](int64_t i) {
    i -= tasks - extra;
    return i < 0 ? reinterpret_cast<float*>(w_data) : reinterpret_cast<float*>(sums->get()) + i * w_size;
  };
  return in_parallel(
      pool, tasks, [=](int64_t i) { run_part(i, plan_of_part(i), sum_of(i)); },
      [=] {
        float* sum = sum_of(0);
        for (int64_t t = 1; t < tasks; ++t) {
          const float* other = sum_of(t);
          for (int64_t i = 0; i < w_size; ++i) sum[i] += other[i];
        }
        if (!bfloat16) return;
        for (int64_t i = 0; i < w_size; ++i) reinterpret_cast<uint16_t*>(w_data)[i] = to_bfloat16(sum[i]);
      });
} catch (const std::exception& e) {
  return failed(std::string("flaxarch's CPU kernel failed: ") + e.what());
} catch (...) {
  return failed("flaxarch's CPU kernel failed");
}

}  // namespace flaxarch
