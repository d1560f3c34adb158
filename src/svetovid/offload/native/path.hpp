// What a path (one instruction set's build of the kernels) offers, and what it is asked for.
//
// A path works on a range of elements, in one thread. Every number depends on its position alone,
// so that any split of the ranges gives the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

namespace svetovid {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "words are little-endian");

// Elements that are worked on at a time: what is kept of them stays in the first-level cache.
// A range starts at a multiple of it.
constexpr std::size_t BLOCK = 1024;

// AES-256 round keys (FIPS 197).
struct RoundKeys {
  alignas(64) std::uint8_t at[15][16];
};

// out = sum of coefficient * mask + sum of coefficient * q, modulo p.
struct Out {
  std::int32_t *out;
  const std::int64_t *masks;
  const std::int64_t *qs;
};

struct Mix {
  const float *x;             // quantised to qs[0], or null: all qs are given
  int shift;                  // of x
  const RoundKeys *rounding;  // of x
  std::int16_t *const *qs;
  std::size_t q_count;
  const RoundKeys *masks;
  std::size_t mask_count;
  const Out *outs;
  std::size_t out_count;
  std::uint32_t p;
  bool past_cache;  // results are too many for the caches: write around them
};

// out = float32(2 ** -shift * sum over parts of centred(sum of coefficient * answer mod p)).
struct Combine {
  const std::int32_t *const *answers;  // each [parts * n], in memory that others may write to
  const std::int64_t *coefficients;
  std::size_t answer_count;
  std::size_t parts;
  std::size_t n;
  std::uint32_t p;
  int shift;
  float *out;
  std::int32_t *narrow;  // [parts * n], the integers part by part, or null
  std::int64_t *wide;    // [n], their sums, or null
  bool past_cache;
};

// out[o, l] = sum over k of weights[k] * values[o, k, l] modulo p.
struct Contract {
  const void *values;  // [outer, k, length]
  std::size_t k, length;
  const std::int32_t *weights;  // centred residues
  const std::int32_t *spread;   // [k, length], where rows are short: the weight of each number
  std::uint32_t p;
  std::int32_t *out;
};

// Rows of fewer numbers are short.
constexpr std::size_t SHORT = 32;
// A long row is worked on in tiles of so many.
constexpr std::size_t TILE = 2048;

struct Path {
  const char *name;
  // Greatest absolute value, as bits: 0x7f800000 or more where one is infinite or no number.
  std::uint32_t (*absmax)(const float *x, std::size_t begin, std::size_t end);
  void (*expand)(const RoundKeys &key, std::uint32_t p, std::int32_t *out, bool past_cache,
                 std::size_t begin, std::size_t end);
  // Whether every number of x lay within what the shift allows.
  bool (*mix)(const Mix &what, std::size_t begin, std::size_t end);
  // Bit i is set where answer i held what is no residue.
  std::uint64_t (*combine)(const Combine &what, std::size_t begin, std::size_t end);
  // Of int16 and of int32. A range is one of outer, or of tiles of outer where rows are long.
  void (*contract16)(const Contract &what, std::size_t begin, std::size_t end);
  void (*contract32)(const Contract &what, std::size_t begin, std::size_t end);
};

extern const Path PORTABLE;
#ifdef SVETOVID_X86
extern const Path AVX2;
extern const Path AVX512;
#endif

}  // namespace svetovid
