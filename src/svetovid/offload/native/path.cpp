// The kernels. This file is compiled once for each instruction set, into a path of its own name;
// it uses nothing of the C++ library, so that no code for one set is called where another runs.
#include "path.hpp"

#include <cstring>

#include "contract.hpp"
#include "keystream.hpp"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace {

using svetovid::BLOCK;
using i16 = std::int16_t;
using i32 = std::int32_t;
using i64 = std::int64_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;

inline u32 lesser(u32 a, u32 b) { return a < b ? a : b; }
inline std::size_t room(std::size_t begin, std::size_t end) {
  return end - begin < BLOCK ? end - begin : BLOCK;
}

// ------------------------------------------------------------------------------------ memory

// What was copied before is not read again from where it came: others may write there.
inline void settle(void *copy) { asm volatile("" : : "r"(copy) : "memory"); }

// In vectors: for a block, compilers and libraries choose what is slower from DRAM.
inline void copy(u32 *to, const i32 *from, std::size_t n) {
  std::size_t i = 0;
  for (; i + 16 <= n; i += 16) std::memcpy(to + i, from + i, 64);
  std::memcpy(to + i, from + i, 4 * (n - i));
}

inline void put(void *to, const void *from, std::size_t bytes, bool past_cache) {
#if defined(__SSE2__)
  char *t = static_cast<char *>(to);
  const char *f = static_cast<const char *>(from);
#if defined(__AVX512F__)
  constexpr std::size_t WIDE = 64;
#elif defined(__AVX__)
  constexpr std::size_t WIDE = 32;
#else
  constexpr std::size_t WIDE = 16;
#endif
  if (past_cache && bytes >= 64) {
    const std::size_t head = (64 - reinterpret_cast<std::uintptr_t>(t) % 64) % 64;
    std::memcpy(t, f, head);
    t += head, f += head, bytes -= head;
    for (; bytes >= WIDE; t += WIDE, f += WIDE, bytes -= WIDE) {
#if defined(__AVX512F__)
      _mm512_stream_si512(reinterpret_cast<__m512i *>(t), _mm512_loadu_si512(f));
#elif defined(__AVX__)
      _mm256_stream_si256(reinterpret_cast<__m256i *>(t),
                          _mm256_loadu_si256(reinterpret_cast<const __m256i *>(f)));
#else
      _mm_stream_si128(reinterpret_cast<__m128i *>(t),
                       _mm_loadu_si128(reinterpret_cast<const __m128i *>(f)));
#endif
    }
  }
  std::memcpy(t, f, bytes);
#else
  (void)past_cache;
  std::memcpy(to, from, bytes);
#endif
}

// Of what was written around the caches, before another thread is told that it is there.
inline void written() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// The next block is on its way while this one is worked on.
inline void ahead(const void *from, std::size_t bytes) {
  const char *f = static_cast<const char *>(from);
  for (std::size_t i = 0; i < bytes; i += 64) __builtin_prefetch(f + i);
}

// ---------------------------------------------------------------------------------- residues

struct alignas(64) Words {
  u32 at[BLOCK];
};

inline u32 cut(u32 p) { return 0xffffffffu >> __builtin_clz(p); }

inline u32 greatest(const Words &words) {
  u32 found = 0;
  for (const u32 w : words.at) found = found > w ? found : w;
  return found;
}

// Elements begin.. of the mask: words of stream 0, those that are no residue replaced by the words
// at the same place of stream 1, and so on.
void masks(const svetovid::RoundKeys &key, u32 p, std::size_t begin, Words &out) {
  const u32 bits = cut(p);
  keystream(key, 0, begin / 4, BLOCK / 4, bits, out.at);
  for (u64 stream = 1; greatest(out) >= p; ++stream) {
    Words next;
    keystream(key, stream, begin / 4, BLOCK / 4, bits, next.at);
    for (std::size_t i = 0; i < BLOCK; ++i) out.at[i] = out.at[i] < p ? out.at[i] : next.at[i];
  }
}

// Sums and differences of residues; p < 2 ** 31, and the lesser is the one that did not wrap.
inline u32 plus(u32 a, u32 b, u32 p) { return lesser(a + b, a + b - p); }
inline u32 minus(u32 a, u32 b, u32 p) { return lesser(a - b, a - b + p); }

// |C| * v
template <int C>
inline u32 times(u32 v, u32 p) {
  constexpr int SIZE = C < 0 ? -C : C;
  u32 many = v;
  if (SIZE > 1) many = plus(many, v, p);
  if (SIZE == 3) many = plus(many, v, p);
  if (SIZE == 4) many = plus(many, many, p);
  return many;
}

template <int C, bool FIRST>
void add_small(const u32 *v, u32 *sum, u32 p) {
  for (std::size_t i = 0; i < BLOCK; ++i) {
    const u32 many = times<C>(v[i], p), before = FIRST ? 0 : sum[i];
    sum[i] = C < 0 ? minus(before, many, p) : FIRST ? many : plus(before, many, p);
  }
}

// sum = A * a + B * b, without a sum in memory between the two.
template <int A, int B>
void add_two(const u32 *a, const u32 *b, u32 *sum, u32 p) {
  static_assert(A > 0 || B > 0, "a difference is of something");
  for (std::size_t i = 0; i < BLOCK; ++i) {
    const u32 one = times<A>(a[i], p), other = times<B>(b[i], p);
    sum[i] = A < 0 ? minus(other, one, p) : B < 0 ? minus(one, other, p) : plus(one, other, p);
  }
}

// c is a residue. The quotient is off by one at the most, however it was rounded.
template <bool FIRST>
void add_any(u32 c, const u32 *v, u32 *sum, u32 p) {
  const double inverse = 1.0 / p;
  for (std::size_t i = 0; i < BLOCK; ++i) {
    const i64 product = i64(c) * i64(v[i]);
    const i64 quotient = i64(double(product) * inverse);
    i64 rest = product - quotient * i64(p);
    rest += rest < 0 ? i64(p) : 0;
    rest -= rest >= i64(p) ? i64(p) : 0;
    sum[i] = FIRST ? u32(rest) : plus(sum[i], u32(rest), p);
  }
}

// sum += c * v. Coefficients lie in [-4, p).
template <bool FIRST>
void add(i64 c, const u32 *v, u32 *sum, u32 p) {
  switch (c) {
    case -4: return add_small<-4, FIRST>(v, sum, p);
    case -3: return add_small<-3, FIRST>(v, sum, p);
    case -2: return add_small<-2, FIRST>(v, sum, p);
    case -1: return add_small<-1, FIRST>(v, sum, p);
    case 1: return add_small<1, FIRST>(v, sum, p);
    case 2: return add_small<2, FIRST>(v, sum, p);
    case 3: return add_small<3, FIRST>(v, sum, p);
    case 4: return add_small<4, FIRST>(v, sum, p);
    default: return add_any<FIRST>(u32(c), v, sum, p);
  }
}

class Sum {
 public:
  explicit Sum(u32 p) : p_(p) {}
  void add(i64 c, const u32 *v) {
    if (c == 0) return;
    empty_ ? ::add<true>(c, v, words_.at, p_) : ::add<false>(c, v, words_.at, p_);
    empty_ = false;
  }
  template <int A, int B>
  void set(const u32 *a, const u32 *b) {
    add_two<A, B>(a, b, words_.at, p_);
    empty_ = false;
  }
  u32 *words() {
    if (empty_) std::memset(words_.at, 0, sizeof words_.at);
    return words_.at;
  }

 private:
  Words words_;
  u32 p_;
  bool empty_ = true;
};

// Sum of c * v over all terms; both numbers of a share at once, as the protocols have them.
struct Term {
  i64 c;
  const u32 *v;
};

void total(const Term *terms, std::size_t count, Sum &sum) {
  const auto is = [&](i64 a, i64 b) { return count == 2 && terms[0].c == a && terms[1].c == b; };
  const u32 *a = terms[0].v, *b = terms[1].v;
  if (is(-1, 1)) return sum.set<-1, 1>(a, b);
  if (is(2, -1)) return sum.set<2, -1>(a, b);
  if (is(3, -2)) return sum.set<3, -2>(a, b);
  if (is(4, -3)) return sum.set<4, -3>(a, b);
  for (std::size_t i = 0; i < count; ++i) sum.add(terms[i].c, terms[i].v);
}

// ---------------------------------------------------------------------------------- quantise

inline double power_of_two(int e) {  // |e| < 1023
  const u64 bits = u64(1023 + e) << 52;
  double r;
  std::memcpy(&r, &bits, 8);
  return r;
}

// q = (floor(x * scale) + r) >> 16. False where a number is beyond what the scale allows, or none.
template <typename Real>
bool rounded(const float *x, std::size_t n, Real scale, const u16 *r, i16 *q) {
  constexpr Real MOST = 8388608;
  u32 beyond = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const Real y = Real(x[i]) * scale;
    const bool within = y >= -MOST && y <= MOST;
    const Real z = within ? y : 0;
    i32 down = i32(z);
    down -= Real(down) > z;
    q[i] = i16((down + i32(r[i])) >> 16);
    beyond |= within ? 0u : 1u;
  }
  return beyond == 0;
}

// The scale is 2 ** (shift + 16). A double holds every product with it exactly; a float those with
// a scale from 1 on, where nothing gets smaller, and products that are too large are beyond anyway.
bool quantise(const float *x, std::size_t n, int shift, const u16 *r, i16 *q) {
  const int e = shift + 16;
  const double scale = power_of_two(e);
  return 0 <= e && e <= 127 ? rounded(x, n, float(scale), r, q) : rounded(x, n, scale, r, q);
}

void residues(const i16 *q, std::size_t n, u32 p, Words &out) {
  if (p > 0x8000) {
    for (std::size_t i = 0; i < n; ++i) out.at[i] = lesser(u32(i32(q[i])), u32(i32(q[i])) + p);
  } else {
    for (std::size_t i = 0; i < n; ++i) {
      const i32 rest = i32(q[i]) % i32(p);
      out.at[i] = u32(rest < 0 ? rest + i32(p) : rest);
    }
  }
  std::memset(out.at + n, 0, (BLOCK - n) * 4);
}

// ---------------------------------------------------------------------------------- the path

u32 absmax(const float *x, std::size_t begin, std::size_t end) {
  u32 greatest = 0;
  for (std::size_t i = begin; i < end; ++i) {
    u32 bits;
    std::memcpy(&bits, x + i, 4);
    bits &= 0x7fffffff;
    greatest = greatest > bits ? greatest : bits;
  }
  return greatest;
}

void expand(const svetovid::RoundKeys &key, u32 p, i32 *out, bool past_cache, std::size_t begin,
            std::size_t end) {
  Words words;
  for (std::size_t at = begin; at < end; at += BLOCK) {
    masks(key, p, at, words);
    put(out + at, words.at, 4 * room(at, end), past_cache);
  }
  written();
}

constexpr std::size_t MOST = 8;  // masks and qs

bool mix(const svetovid::Mix &m, std::size_t begin, std::size_t end) {
  Words mask[MOST], q[MOST];
  alignas(64) u16 rounding[BLOCK];
  alignas(64) i16 quantised[BLOCK];
  bool good = true;
  for (std::size_t at = begin; at < end; at += BLOCK) {
    const std::size_t n = room(at, end);
    if (m.x) {
      ahead(m.x + at + n, 4 * room(at + n, end));
      keystream(*m.rounding, 0, at / 8, BLOCK / 8, 0xffffffff, rounding);
      good &= quantise(m.x + at, n, m.shift, rounding, quantised);
      put(m.qs[0] + at, quantised, 2 * n, m.past_cache);
      residues(quantised, n, m.p, q[0]);
    } else {
      for (std::size_t i = 0; i < m.q_count; ++i) residues(m.qs[i] + at, n, m.p, q[i]);
    }
    for (std::size_t i = 0; i < m.mask_count; ++i) masks(m.masks[i], m.p, at, mask[i]);
    for (std::size_t o = 0; o < m.out_count; ++o) {
      const svetovid::Out &out = m.outs[o];
      Sum sum(m.p);
      Term terms[2 * MOST] = {};
      std::size_t count = 0;
      for (std::size_t i = 0; i < m.mask_count; ++i)
        if (out.masks[i]) terms[count++] = {out.masks[i], mask[i].at};
      for (std::size_t i = 0; i < m.q_count; ++i)
        if (out.qs[i]) terms[count++] = {out.qs[i], q[i].at};
      total(terms, count, sum);
      put(out.out + at, sum.words(), 4 * n, m.past_cache);
    }
  }
  written();
  return good;
}

template <typename Integer>
void scaled(const Integer *integers, double scale, float *out) {
  for (std::size_t i = 0; i < BLOCK; ++i) out[i] = float(double(integers[i]) * scale);
}

u64 combine(const svetovid::Combine &c, std::size_t begin, std::size_t end) {
  const u32 p = c.p, half = (p - 1) / 2;
  const double scale = power_of_two(-c.shift);
  const bool sums = c.parts > 1 || c.wide;
  alignas(64) i32 narrow[BLOCK];
  alignas(64) i64 wide[BLOCK];
  alignas(64) float floats[BLOCK];
  Words answer;
  std::memset(answer.at, 0, sizeof answer.at);
  u64 bad = 0;
  for (std::size_t at = begin; at < end; at += BLOCK) {
    const std::size_t n = room(at, end);
    for (std::size_t part = 0; part < c.parts; ++part) {
      Sum sum(p);
      for (std::size_t a = 0; a < c.answer_count; ++a) {
        const i32 *from = c.answers[a] + part * c.n + at;
        ahead(from + n, 4 * room(at + n, end));
        copy(answer.at, from, n);
        settle(answer.at);
        if (greatest(answer) >= p) bad |= u64(1) << a;
        sum.add(c.coefficients[a], answer.at);
      }
      const u32 *words = sum.words();
      for (std::size_t i = 0; i < BLOCK; ++i)
        narrow[i] = i32(words[i] > half ? words[i] - p : words[i]);
      if (c.narrow) put(c.narrow + part * c.n + at, narrow, 4 * n, c.past_cache);
      if (sums)
        for (std::size_t i = 0; i < BLOCK; ++i) wide[i] = (part ? wide[i] : 0) + narrow[i];
    }
    sums ? scaled(wide, scale, floats) : scaled(narrow, scale, floats);
    put(c.out + at, floats, 4 * n, c.past_cache);
    if (c.wide) put(c.wide + at, wide, 8 * n, c.past_cache);
  }
  written();
  return bad;
}

}  // namespace

namespace svetovid {

extern const Path SVETOVID_PATH;
const Path SVETOVID_PATH = {
    SVETOVID_NAME, absmax, expand, mix, combine, contract<i16>, contract<i32>};

}  // namespace svetovid
