// Max-pooling, the values in its places, and these spread out again.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>

#include "bfloat16.h"
#include "tasks.h"
#include "vectors.h"

namespace flaxarch {

// `place` tells which entry of its window, row by row, each maximum is: the first of several equal ones, or
// the first NaN. Gradients follow it.

struct Pool {
  int64_t images, height, width, channels;  // of x
  int64_t out_height, out_width;            // of y
  int64_t rows, columns, stride_y, stride_x, top, left;
};

// Calls visit(offset of the entry's channels in x, its number in the window) for the entries inside the
// image.
template <typename Visit>
FLAXARCH_INLINE void window(const Pool& p, int64_t image, int64_t y, int64_t x, Visit visit) {
  for (int64_t i = 0; i < p.rows; ++i) {
    const int64_t row = y * p.stride_y - p.top + i;
    if (row < 0 || row >= p.height) continue;
    for (int64_t j = 0; j < p.columns; ++j) {
      const int64_t column = x * p.stride_x - p.left + j;
      if (column < 0 || column >= p.width) continue;
      visit(((image * p.height + row) * p.width + column) * p.channels, i * p.columns + j);
    }
  }
}

// Rows `first` to `last` of y, counted through all images.
template <typename T>
FLAXARCH_INLINE void maxima(const Pool& p, const T* x, T* y, uint8_t* place, int64_t first, int64_t last,
                            T lowest) {
  const int64_t channels = p.channels;
  for (int64_t i = first * p.out_width; i < last * p.out_width; ++i) {
    T* __restrict best = y + i * channels;
    uint8_t* __restrict where = place + i * channels;
    bool started = false;
    window(p, i / p.out_width / p.out_height, i / p.out_width % p.out_height, i % p.out_width,
           [&](int64_t offset, int64_t entry) {
             const T* __restrict value = x + offset;
             const uint8_t number = static_cast<uint8_t>(entry);
             if (!started) {
               started = true;
               std::memcpy(best, value, channels * sizeof(T));
               std::memset(where, number, channels);
               return;
             }
             for (int64_t c = 0; c < channels; ++c) {
               const float a = to_float(value[c]), b = to_float(best[c]);
               const bool better = (a > b) | ((a != a) & (b == b));
               best[c] = better ? value[c] : best[c];
               where[c] = better ? number : where[c];
             }
           });
    if (started) continue;
    std::fill(best, best + channels, lowest);
    std::memset(where, 0, channels);
  }
}

// y at its place in x; zero where the window saw nothing.
template <typename T>
FLAXARCH_INLINE void values_at(const Pool& p, const T* x, const uint8_t* place, T* y, int64_t first,
                               int64_t last) {
  const int64_t channels = p.channels;
  for (int64_t i = first * p.out_width; i < last * p.out_width; ++i) {
    T* __restrict chosen = y + i * channels;
    const uint8_t* __restrict where = place + i * channels;
    std::memset(chosen, 0, channels * sizeof(T));
    window(p, i / p.out_width / p.out_height, i / p.out_width % p.out_height, i % p.out_width,
           [&](int64_t offset, int64_t entry) {
             const T* __restrict value = x + offset;
             const uint8_t number = static_cast<uint8_t>(entry);
             for (int64_t c = 0; c < channels; ++c) chosen[c] = where[c] == number ? value[c] : chosen[c];
           });
  }
}

// Rows `first` to `last` of x: the sum of y over the windows that hold a pixel in the place that they chose.
template <typename T>
FLAXARCH_INLINE void spread(const Pool& p, const T* y, const uint8_t* place, T* x, int64_t first,
                            int64_t last) {
  constexpr int64_t kBlock = 128;  // channels at a time
  for (int64_t i = first * p.width; i < last * p.width; ++i) {
    const int64_t image = i / p.width / p.height, row = i / p.width % p.height + p.top,
                  column = i % p.width + p.left;
    const int64_t top = std::max<int64_t>(0, (row - p.rows) / p.stride_y + (row >= p.rows));
    const int64_t left = std::max<int64_t>(0, (column - p.columns) / p.stride_x + (column >= p.columns));
    const int64_t bottom = std::min(p.out_height - 1, row / p.stride_y);
    const int64_t right = std::min(p.out_width - 1, column / p.stride_x);
    for (int64_t start = 0; start < p.channels; start += kBlock) {
      const int64_t channels = std::min(kBlock, p.channels - start);
      float sum[kBlock] = {};
      for (int64_t u = top; u <= bottom; ++u) {
        for (int64_t v = left; v <= right; ++v) {
          const int64_t offset = ((image * p.out_height + u) * p.out_width + v) * p.channels + start;
          const T* __restrict value = y + offset;
          const uint8_t* __restrict where = place + offset;
          const uint8_t number =
              static_cast<uint8_t>((row - u * p.stride_y) * p.columns + column - v * p.stride_x);
          for (int64_t c = 0; c < channels; ++c) sum[c] += where[c] == number ? to_float(value[c]) : 0.0f;
        }
      }
      T* __restrict to = x + i * p.channels + start;
      for (int64_t c = 0; c < channels; ++c) store(sum[c], to + c);
    }
  }
}

#define FLAXARCH_OF_TYPE(T, lowest)                                                                     \
  FLAXARCH_VECTORS void maxima_of(const Pool& p, const T* x, T* y, uint8_t* place, int64_t first,       \
                                  int64_t last) {                                                       \
    maxima<T>(p, x, y, place, first, last, lowest);                                                     \
  }                                                                                                     \
  FLAXARCH_VECTORS void values_of(const Pool& p, const T* x, const uint8_t* place, T* y, int64_t first, \
                                  int64_t last) {                                                       \
    values_at<T>(p, x, place, y, first, last);                                                          \
  }                                                                                                     \
  FLAXARCH_VECTORS void spread_of(const Pool& p, const T* y, const uint8_t* place, T* x, int64_t first, \
                                  int64_t last) {                                                       \
    spread<T>(p, y, place, x, first, last);                                                             \
  }
FLAXARCH_OF_TYPE(float, -std::numeric_limits<float>::infinity())
FLAXARCH_OF_TYPE(uint16_t, 0xff80)

// geometry: rows and columns of the window, strides, top, left. All dimensions before the last three are
// images.
ffi::Future pool_rows(ffi::ThreadPool threads, ffi::AnyBuffer x, ffi::AnyBuffer y,
                      ffi::Span<const int64_t> geometry, bool of_x,
                      std::function<void(const Pool&, bool bfloat16, int64_t first, int64_t last)> work) {
  const auto xs = x.dimensions(), ys = y.dimensions();
  const size_t rank = xs.size();
  if (rank < 4 || ys.size() != rank || geometry.size() != 6) {
    return failed("flaxarch's CPU kernel expects four dimensions and six numbers of geometry");
  }
  const auto* g = geometry.begin();
  if (*std::min_element(g, g + 4) < 1)
    return failed("flaxarch's CPU kernel expects positive windows and strides");
  int64_t images = 1;
  for (size_t i = 0; i + 3 < rank; ++i) images *= xs[i];
  const Pool p{images, xs[rank - 3], xs[rank - 2], xs[rank - 1], ys[rank - 3], ys[rank - 2],
               g[0],   g[1],         g[2],         g[3],         g[4],         g[5]};
  const bool bfloat16 = x.element_type() == ffi::DataType::BF16;
  if (!bfloat16 && x.element_type() != ffi::DataType::F32) {
    return failed("flaxarch's CPU kernel expects float32 or bfloat16");
  }
  const int64_t rows = images * (of_x ? p.height : p.out_height);
  if (rows == 0) return ready();
  const int64_t tasks = std::min<int64_t>(rows, std::max<int64_t>(1, threads.num_threads()));
  return in_parallel(threads, tasks,
                     [=](int64_t i) { work(p, bfloat16, i * rows / tasks, (i + 1) * rows / tasks); });
}

}  // namespace flaxarch
