// bfloat16 in memory: the upper half of a float32.
#pragma once

#include <cstdint>
#include <cstring>

#define FLAXARCH_INLINE __attribute__((always_inline)) inline

namespace flaxarch {

// Rounds to nearest, ties to even; NaN stays NaN.
FLAXARCH_INLINE uint16_t to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

FLAXARCH_INLINE float to_float(float value) { return value; }
FLAXARCH_INLINE float to_float(uint16_t value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}
FLAXARCH_INLINE void store(float value, float* to) { *to = value; }
FLAXARCH_INLINE void store(float value, uint16_t* to) { *to = to_bfloat16(value); }

}  // namespace flaxarch
