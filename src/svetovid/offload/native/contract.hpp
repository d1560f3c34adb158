// Sums of numbers times weights, modulo p: what Freivalds' check makes of every tensor.
//
// Weights are centred, so that a product of one and an int16 is at most 2 ** 45 in size, and four of
// one and an int32 fit int64. The sum of those four is kept as its low 31 bits and the rest.
#pragma once

#include <cstring>

#include "path.hpp"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

using std::int16_t;
using std::int32_t;
using std::int64_t;
using std::size_t;
using std::uint32_t;

#if defined(__AVX512F__)
typedef int64_t Longs __attribute__((vector_size(64), may_alias, aligned(8)));
inline Longs longs(const int16_t *v) {
  return Longs(_mm512_cvtepi16_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i *>(v))));
}
inline Longs longs(const int32_t *v) {
  return Longs(_mm512_cvtepi32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(v))));
}
inline Longs product(Longs a, Longs b) { return Longs(_mm512_mul_epi32(__m512i(a), __m512i(b))); }
#elif defined(__AVX2__)
typedef int64_t Longs __attribute__((vector_size(32), may_alias, aligned(8)));
inline Longs longs(const int16_t *v) {
  return Longs(_mm256_cvtepi16_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(v))));
}
inline Longs longs(const int32_t *v) {
  return Longs(_mm256_cvtepi32_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i *>(v))));
}
inline Longs product(Longs a, Longs b) { return Longs(_mm256_mul_epi32(__m256i(a), __m256i(b))); }
#else
typedef int64_t Longs __attribute__((vector_size(16), may_alias, aligned(8)));
template <typename T>
inline Longs longs(const T *v) {
  return Longs{v[0], v[1]};
}
inline Longs product(Longs a, Longs b) { return a * b; }
#endif
constexpr size_t LANES = sizeof(Longs) / 8;

using svetovid::TILE;
constexpr size_t DEEP = size_t(1) << 17;  // products that may be summed up before they are reduced
constexpr int64_t LOW = 0x7fffffff;

struct Sums {
  alignas(64) int64_t low[TILE];
  alignas(64) int64_t high[TILE];  // of int16, unused
};

inline void add(Sums &sums, size_t at, int64_t value, int16_t) { sums.low[at] += value; }
inline void add(Sums &sums, size_t at, int64_t value, int32_t) {
  sums.low[at] += value & LOW;
  sums.high[at] += value >> 31;
}
inline void add(Sums &sums, size_t at, Longs value, int16_t) {
  *reinterpret_cast<Longs *>(sums.low + at) += value;
}
inline void add(Sums &sums, size_t at, Longs value, int32_t) {
  *reinterpret_cast<Longs *>(sums.low + at) += value & LOW;
  *reinterpret_cast<Longs *>(sums.high + at) += value >> 31;
}

// value modulo p. No value is larger than 2 ** 48 times p: a quotient in floating point is off by one
// at the most, however it was rounded.
struct Modulo {
  int64_t p;
  double inverse;
  explicit Modulo(uint32_t prime) : p(prime), inverse(1.0 / prime) {}
  int64_t operator()(int64_t value) const {
    value -= int64_t(double(value) * inverse) * p;
    value += value < 0 ? p : 0;
    return value >= p ? value - p : value;
  }
};

// sums[t] += w0 * v0[t] + ... of four rows, each with a weight.
template <typename T>
inline void add_rows(Sums &sums, const T *const *v, const int32_t *w, size_t columns) {
  const Longs none = {};
  const Longs w0 = none + w[0], w1 = none + w[1], w2 = none + w[2], w3 = none + w[3];
  size_t t = 0;
  for (; t + LANES <= columns; t += LANES)
    add(sums, t,
        product(longs(v[0] + t), w0) + product(longs(v[1] + t), w1) +
            product(longs(v[2] + t), w2) + product(longs(v[3] + t), w3),
        T());
  for (; t < columns; ++t)
    add(sums, t,
        int64_t(v[0][t]) * w[0] + int64_t(v[1][t]) * w[1] + int64_t(v[2][t]) * w[2] +
            int64_t(v[3][t]) * w[3],
        T());
}

// The same of four runs of `columns` numbers one after another, each number with its weight.
// `columns` is a multiple of LANES.
template <typename T>
inline void add_runs(Sums &sums, const T *v, const int32_t *w, size_t columns) {
  const size_t c = columns;
  for (size_t t = 0; t < c; t += LANES)
    add(sums, t,
        product(longs(v + t), longs(w + t)) + product(longs(v + t + c), longs(w + t + c)) +
            product(longs(v + t + 2 * c), longs(w + t + 2 * c)) +
            product(longs(v + t + 3 * c), longs(w + t + 3 * c)),
        T());
}

template <typename T>
class Contraction {
 public:
  explicit Contraction(const svetovid::Contract &c) : c_(c), modulo_(c.p) {}

  // Columns first.. of one slice.
  void wide(size_t slice, size_t first, size_t columns) {
    const T *v = static_cast<const T *>(c_.values) + slice * c_.k * c_.length + first;
    int32_t *out = c_.out + slice * c_.length + first;
    for (size_t k = 0; k < c_.k || k == 0; k += DEEP) {
      clear(columns);
      const size_t end = c_.k < k + DEEP ? c_.k : k + DEEP;
      for (size_t row = k; row < end; row += 4) {
        const T *rows[4];
        int32_t weights[4];
        for (size_t i = 0; i < 4; ++i) {
          const bool there = row + i < end;
          rows[i] = v + (there ? row + i : row) * c_.length;
          weights[i] = there ? c_.weights[row + i] : 0;
        }
        add_rows(sums_, rows, weights, columns);
      }
      const Modulo modulo = modulo_;
      for (size_t t = 0; t < columns; ++t)
        out[t] = int32_t(modulo(residue(t, modulo) + (k ? out[t] : 0)));
    }
  }

  // A whole slice of short rows; c.spread has the weight of each number.
  void narrow(size_t slice) {
    const size_t length = c_.length, deep = DEEP / length * length;
    size_t run = length;  // of whole rows and whole vectors
    while (run % LANES) run += length;
    run *= (64 + run - 1) / run;
    const size_t size = c_.k * length;
    const T *v = static_cast<const T *>(c_.values) + slice * size;
    int32_t *out = c_.out + slice * length;
    std::memset(out, 0, 4 * length);
    for (size_t begin = 0; begin < size; begin += deep) {
      clear(run);
      const size_t end = size < begin + deep ? size : begin + deep;
      size_t at = begin;
      for (; at + 4 * run <= end; at += 4 * run) add_runs(sums_, v + at, c_.spread + at, run);
      for (size_t t = 0; at < end; ++at, t = t + 1 < run ? t + 1 : 0)
        add(sums_, t, int64_t(v[at]) * c_.spread[at], T());
      const Modulo modulo = modulo_;
      for (size_t t = 0; t < run; ++t)
        out[t % length] = int32_t(modulo(residue(t, modulo) + out[t % length]));
    }
  }

 private:
  void clear(size_t columns) {
    std::memset(sums_.low, 0, 8 * columns);
    std::memset(sums_.high, 0, 8 * columns);
  }
  int64_t residue(size_t t, const Modulo &modulo) const {
    const int64_t low = modulo(sums_.low[t]);
    if (sizeof(T) == 2) return low;
    return low + modulo(modulo(sums_.high[t]) * modulo(LOW + 1));
  }

  const svetovid::Contract &c_;
  Modulo modulo_;
  Sums sums_;
};

template <typename T>
void contract(const svetovid::Contract &c, size_t begin, size_t end) {
  Contraction<T> contraction(c);
  if (c.spread) {
    for (size_t slice = begin; slice < end; ++slice) contraction.narrow(slice);
    return;
  }
  const size_t tiles = (c.length + TILE - 1) / TILE;
  for (size_t at = begin; at < end; ++at) {
    const size_t first = at % tiles * TILE;
    contraction.wide(at / tiles, first, c.length - first < TILE ? c.length - first : TILE);
  }
}

}  // namespace
