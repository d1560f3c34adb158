// AES's S-box and key schedule (FIPS 197), bit by bit: no table is looked up, so that no secret
// decides which memory is touched. A V holds one bit of each of as many bytes as it has bits.
#pragma once

#include <cstring>

#include "path.hpp"

namespace {

template <typename V>
struct Byte {
  V bit[8];
};

// Modulo x^8 + x^4 + x^3 + x + 1.
template <typename V>
inline Byte<V> reduced(V (&c)[15]) {
  for (int k = 14; k >= 8; --k) {
    c[k - 4] ^= c[k];
    c[k - 5] ^= c[k];
    c[k - 7] ^= c[k];
    c[k - 8] ^= c[k];
  }
  Byte<V> r;
  for (int i = 0; i < 8; ++i) r.bit[i] = c[i];
  return r;
}

template <typename V>
inline Byte<V> times(const Byte<V> &a, const Byte<V> &b) {
  V c[15] = {};
  for (int i = 0; i < 8; ++i)
    for (int j = 0; j < 8; ++j) c[i + j] ^= a.bit[i] & b.bit[j];
  return reduced(c);
}

template <typename V>
inline Byte<V> squared(const Byte<V> &a) {
  V c[15] = {};
  for (int i = 0; i < 8; ++i) c[2 * i] = a.bit[i];
  return reduced(c);
}

// The inverse is the 254th power: 254 = 16 * 15 + 14.
template <typename V>
inline Byte<V> sbox(const Byte<V> &x) {
  const Byte<V> x2 = squared(x), x3 = times(x2, x);
  const Byte<V> x12 = squared(squared(x3)), x14 = times(x12, x2);
  Byte<V> x240 = times(x12, x3);
  for (int i = 0; i < 4; ++i) x240 = squared(x240);
  const Byte<V> y = times(x240, x14);
  Byte<V> r;
  for (int i = 0; i < 8; ++i) {
    r.bit[i] = y.bit[i] ^ y.bit[(i + 4) % 8] ^ y.bit[(i + 5) % 8] ^ y.bit[(i + 6) % 8] ^
               y.bit[(i + 7) % 8];
    if (0x63 >> i & 1) r.bit[i] = ~r.bit[i];
  }
  return r;
}

inline void substitute(std::uint8_t (&word)[4]) {
  Byte<std::uint32_t> x = {};
  for (int n = 0; n < 4; ++n)
    for (int i = 0; i < 8; ++i) x.bit[i] |= std::uint32_t(word[n] >> i & 1) << n;
  const Byte<std::uint32_t> y = sbox(x);
  for (int n = 0; n < 4; ++n) {
    word[n] = 0;
    for (int i = 0; i < 8; ++i) word[n] |= std::uint8_t((y.bit[i] >> n & 1) << i);
  }
}

[[maybe_unused]] void expand_key(const std::uint8_t *key, svetovid::RoundKeys &keys) {
  std::uint8_t(*w)[4] = reinterpret_cast<std::uint8_t(*)[4]>(keys.at);
  std::memcpy(w, key, 32);
  std::uint8_t constant = 1;
  for (int i = 8; i < 60; ++i) {
    std::uint8_t t[4];
    std::memcpy(t, w[i - 1], 4);
    if (i % 8 == 0) {
      const std::uint8_t first = t[0];
      t[0] = t[1], t[1] = t[2], t[2] = t[3], t[3] = first;
    }
    if (i % 4 == 0) substitute(t);
    if (i % 8 == 0) {
      t[0] ^= constant;
      constant = std::uint8_t(constant << 1);  // seven of them: none is reduced
    }
    for (int n = 0; n < 4; ++n) w[i][n] = w[i - 8][n] ^ t[n];
  }
}

}  // namespace
