// AES-256 in counter mode, in runs of 64 blocks: with the widest instructions that this file is
// compiled for. The counter block is a big-endian number: its high half says which stream, its low
// half which block of it (NIST SP 800-38A). Of every word of 32 bits, `bits` are kept.
#pragma once

#include "path.hpp"

#if defined(__VAES__) && defined(__AVX512BW__)
#include <immintrin.h>

namespace {

// `first` and `blocks` are multiples of 64.
inline void keystream(const svetovid::RoundKeys &key, std::uint64_t stream, std::uint64_t first,
                      std::size_t blocks, std::uint32_t bits, void *out) {
  constexpr int WAYS = 8;
  __m512i keys[15];
  for (int i = 0; i < 15; ++i)
    keys[i] = _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i *>(key.at[i])));
  const __m512i swap = _mm512_broadcast_i32x4(
      _mm_setr_epi8(7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8));
  const long long r = static_cast<long long>(stream), j = static_cast<long long>(first);
  __m512i counter = _mm512_setr_epi64(r, j, r, j + 1, r, j + 2, r, j + 3);
  const __m512i step = _mm512_setr_epi64(0, 4, 0, 4, 0, 4, 0, 4);
  const __m512i kept = _mm512_set1_epi32(static_cast<int>(bits));
  __m512i *to = static_cast<__m512i *>(out);
  for (std::size_t done = 0; done < blocks; done += 4 * WAYS, to += WAYS) {
    __m512i s[WAYS];
    for (int w = 0; w < WAYS; ++w) {
      s[w] = _mm512_xor_si512(_mm512_shuffle_epi8(counter, swap), keys[0]);
      counter = _mm512_add_epi64(counter, step);
    }
    for (int i = 1; i < 14; ++i)
      for (int w = 0; w < WAYS; ++w) s[w] = _mm512_aesenc_epi128(s[w], keys[i]);
    for (int w = 0; w < WAYS; ++w)
      _mm512_storeu_si512(
          to + w, _mm512_and_si512(_mm512_aesenclast_epi128(s[w], keys[14]), kept));
  }
}

}  // namespace

#elif defined(__AES__) && defined(__SSSE3__)
#include <immintrin.h>

namespace {

inline void keystream(const svetovid::RoundKeys &key, std::uint64_t stream, std::uint64_t first,
                      std::size_t blocks, std::uint32_t bits, void *out) {
  constexpr int WAYS = 8;
  const __m128i *keys = reinterpret_cast<const __m128i *>(key.at);
  const __m128i swap = _mm_setr_epi8(7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8);
  __m128i counter =
      _mm_set_epi64x(static_cast<long long>(first), static_cast<long long>(stream));
  const __m128i step = _mm_set_epi64x(1, 0);
  const __m128i kept = _mm_set1_epi32(static_cast<int>(bits));
  __m128i *to = static_cast<__m128i *>(out);
  for (std::size_t done = 0; done < blocks; done += WAYS, to += WAYS) {
    __m128i s[WAYS];
    for (int w = 0; w < WAYS; ++w) {
      s[w] = _mm_xor_si128(_mm_shuffle_epi8(counter, swap), keys[0]);
      counter = _mm_add_epi64(counter, step);
    }
    for (int i = 1; i < 14; ++i)
      for (int w = 0; w < WAYS; ++w) s[w] = _mm_aesenc_si128(s[w], keys[i]);
    for (int w = 0; w < WAYS; ++w)
      _mm_storeu_si128(to + w, _mm_and_si128(_mm_aesenclast_si128(s[w], keys[14]), kept));
  }
}

}  // namespace

#else
#include "sbox.hpp"

namespace {

using Lanes = std::uint64_t;  // bit j belongs to block first + j

struct State {
  Byte<Lanes> at[16];
};

inline void add_key(State &s, const std::uint8_t (&key)[16]) {
  for (int i = 0; i < 16; ++i)
    for (int b = 0; b < 8; ++b) s.at[i].bit[b] ^= Lanes(0) - (key[i] >> b & 1);
}

inline void substitute_and_shift(State &s) {
  State t;
  for (int i = 0; i < 16; ++i) t.at[i] = sbox(s.at[i]);
  for (int column = 0; column < 4; ++column)
    for (int row = 0; row < 4; ++row)
      s.at[row + 4 * column] = t.at[row + 4 * ((column + row) % 4)];
}

inline Byte<Lanes> doubled(const Byte<Lanes> &a) {
  Byte<Lanes> r;
  for (int b = 0; b < 8; ++b) r.bit[b] = a.bit[(b + 7) % 8];
  r.bit[1] ^= a.bit[7];
  r.bit[3] ^= a.bit[7];
  r.bit[4] ^= a.bit[7];
  return r;
}

inline void mix_columns(State &s) {
  for (int column = 0; column < 4; ++column) {
    Byte<Lanes> a[4];
    for (int row = 0; row < 4; ++row) a[row] = s.at[row + 4 * column];
    for (int row = 0; row < 4; ++row) {
      const Byte<Lanes> &next = a[(row + 1) % 4];
      Byte<Lanes> pair;
      for (int b = 0; b < 8; ++b) pair.bit[b] = a[row].bit[b] ^ next.bit[b];
      pair = doubled(pair);
      for (int b = 0; b < 8; ++b)
        s.at[row + 4 * column].bit[b] =
            pair.bit[b] ^ next.bit[b] ^ a[(row + 2) % 4].bit[b] ^ a[(row + 3) % 4].bit[b];
    }
  }
}

inline void set_counters(State &s, std::uint64_t stream, std::uint64_t first) {
  constexpr Lanes COUNT[6] = {0xaaaaaaaaaaaaaaaa, 0xcccccccccccccccc, 0xf0f0f0f0f0f0f0f0,
                              0xff00ff00ff00ff00, 0xffff0000ffff0000, 0xffffffff00000000};
  for (int i = 0; i < 8; ++i)
    for (int b = 0; b < 8; ++b) {
      const int n = 8 * (7 - i) + b;
      s.at[i].bit[b] = Lanes(0) - (stream >> n & 1);
      s.at[8 + i].bit[b] = n < 6 ? COUNT[n] : Lanes(0) - (first >> n & 1);
    }
}

// Byte n of the result is made of bit n of each byte.
inline std::uint64_t transposed(std::uint64_t x) {
  std::uint64_t t = (x ^ x >> 7) & 0x00aa00aa00aa00aa;
  x ^= t ^ t << 7;
  t = (x ^ x >> 14) & 0x0000cccc0000cccc;
  x ^= t ^ t << 14;
  t = (x ^ x >> 28) & 0x00000000f0f0f0f0;
  return x ^ t ^ t << 28;
}

inline void store(const State &s, std::uint32_t bits, std::uint8_t *out) {
  for (int i = 0; i < 16; ++i)
    for (int eight = 0; eight < 64; eight += 8) {
      std::uint64_t x = 0;
      for (int b = 0; b < 8; ++b) x |= (s.at[i].bit[b] >> eight & 0xff) << 8 * b;
      const std::uint64_t kept = (bits >> 8 * (i % 4) & 0xff) * 0x0101010101010101;
      x = transposed(x) & kept;
      for (int j = 0; j < 8; ++j) out[16 * (eight + j) + i] = std::uint8_t(x >> 8 * j);
    }
}

inline void keystream(const svetovid::RoundKeys &key, std::uint64_t stream, std::uint64_t first,
                      std::size_t blocks, std::uint32_t bits, void *out) {
  for (std::size_t done = 0; done < blocks; done += 64) {
    State s;
    set_counters(s, stream, first + done);
    add_key(s, key.at[0]);
    for (int i = 1; i < 14; ++i) {
      substitute_and_shift(s);
      mix_columns(s);
      add_key(s, key.at[i]);
    }
    substitute_and_shift(s);
    add_key(s, key.at[14]);
    store(s, bits, static_cast<std::uint8_t *>(out) + 16 * done);
  }
}

}  // namespace
#endif
