// Sums over all pixels of all images, for each channel: what batch norm and its gradient need.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "bfloat16.h"
#include "tasks.h"
#include "vectors.h"

namespace flaxarch {

constexpr int64_t kWidth = 512;  // values side by side that are summed in one loop
constexpr int64_t kRows = 64;    // of such values, summed in float before they go to double

// Adds to sums[2, width] the sums over `rows` rows of `a` and of a * (b - center), each row `stride` behind
// the last; with kMoments, `a` is b - center itself.
template <bool kMoments>
FLAXARCH_INLINE void add_rows(const float* a, const float* b, const float* center, int64_t rows,
                              int64_t stride, int64_t width, double* sums) {
  float first[kWidth] = {}, second[kWidth] = {};
  for (int64_t row = 0; row < rows; ++row, a += stride, b += stride) {
    const float* __restrict a_row = a;
    const float* __restrict b_row = b;
    for (int64_t i = 0; i < width; ++i) {
      const float offset = b_row[i] - center[i];
      const float value = kMoments ? offset : a_row[i];
      first[i] += value;
      second[i] += value * offset;
    }
  }
  for (int64_t i = 0; i < width; ++i) {
    sums[i] += first[i];
    sums[width + i] += second[i];
  }
}

FLAXARCH_VECTORS void add_moments(const float* x, const float* center, int64_t rows, int64_t stride,
                                  int64_t width, double* sums) {
  add_rows<true>(x, x, center, rows, stride, width, sums);
}
FLAXARCH_VECTORS void add_products(const float* a, const float* b, const float* center, int64_t rows,
                                   int64_t stride, int64_t width, double* sums) {
  add_rows<false>(a, b, center, rows, stride, width, sums);
}

// The sums over pixels `first` to `last`, [2, channels], are added to `sums`. `a` is null for moments.
void sum_pixels(const float* a, const float* b, const float* center, int64_t channels, int64_t first,
                int64_t last, double* sums) {
  const auto add = [&](int64_t offset, const float* centers, int64_t rows, int64_t stride, int64_t width,
                       double* to) {
    for (int64_t row = 0; row < rows; row += kRows) {
      const int64_t start = offset + row * stride, count = std::min(kRows, rows - row);
      if (a == nullptr) {
        add_moments(b + start, centers, count, stride, width, to);
      } else {
        add_products(a + start, b + start, centers, count, stride, width, to);
      }
    }
  };
  // Few channels: several pixels side by side.
  const int64_t together = std::max<int64_t>(1, kWidth / 2 / channels);
  const int64_t whole = together > 1 ? (last - first) / together : 0;
  if (whole > 0) {
    const int64_t width = together * channels;
    float centers[kWidth];
    double wide[2 * kWidth] = {};
    for (int64_t i = 0; i < width; ++i) centers[i] = center[i % channels];
    add(first * channels, centers, whole, width, width, wide);
    for (int64_t i = 0; i < width; ++i) {
      sums[i % channels] += wide[i];
      sums[channels + i % channels] += wide[width + i];
    }
    first += whole * together;
  }
  for (int64_t c = 0; c < channels && first < last; c += kWidth) {
    const int64_t width = std::min(kWidth, channels - c);
    double some[2 * kWidth] = {};
    add(first * channels + c, center + c, last - first, channels, width, some);
    for (int64_t i = 0; i < width; ++i) {
      sums[c + i] += some[i];
      sums[channels + c + i] += some[width + i];
    }
  }
}

// y [2, channels]: the sums over all pixels of a and of a * (b - center), or of b - center and its square.
ffi::Future channel_sums(ffi::ThreadPool threads, const float* a, ffi::AnyBuffer b, ffi::AnyBuffer center,
                         ffi::AnyBuffer y) {
  const int64_t channels = center.element_count(), size = b.element_count();
  for (const auto& array : {b, center, y}) {
    if (array.element_type() != ffi::DataType::F32) {
      return failed("flaxarch's CPU kernel expects float32");
    }
  }
  if (channels < 1 || size % channels != 0 || int64_t(y.element_count()) != 2 * channels) {
    return failed("flaxarch's CPU kernel expects one center for each channel");
  }
  constexpr int64_t kLeast = 1 << 15;  // values that are worth a task
  const int64_t pixels = size / channels;
  const int64_t tasks = std::max<int64_t>(1, std::min<int64_t>(threads.num_threads(), size / kLeast));
  auto sums = std::make_shared<std::vector<double>>(tasks * 2 * channels);
  const auto *values = static_cast<const float*>(b.untyped_data()),
             *centers = static_cast<const float*>(center.untyped_data());
  auto* result = static_cast<float*>(y.untyped_data());
  const auto sum_some = [=](int64_t i) {
    sum_pixels(a, values, centers, channels, i * pixels / tasks, (i + 1) * pixels / tasks,
               sums->data() + i * 2 * channels);
  };
  const auto sum_all = [=] {
    for (int64_t c = 0; c < 2 * channels; ++c) {
      double sum = 0;
      for (int64_t i = 0; i < tasks; ++i) sum += (*sums)[i * 2 * channels + c];
      result[c] = static_cast<float>(sum);
    }
  };
  if (tasks > 1) return in_parallel(threads, tasks, sum_some, sum_all);
  sum_some(0);
  sum_all();
  return ready();
}

}  // namespace flaxarch
