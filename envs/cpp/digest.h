// BLAKE2b (RFC 7693) of a text, without a key, 8 bytes long.

#pragma once

#include <cstdint>
#include <cstring>
#include <string>

namespace {

constexpr uint64_t START[8] = {
    0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
    0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179};
constexpr uint8_t ORDER[10][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
    {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
    {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
    {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
    {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
    {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0}};

uint64_t turned(uint64_t x, int bits) { return x >> bits | x << (64 - bits); }

void mix(uint64_t *v, int a, int b, int c, int d, uint64_t x, uint64_t y) {
    v[a] += v[b] + x, v[d] = turned(v[d] ^ v[a], 32);
    v[c] += v[d], v[b] = turned(v[b] ^ v[c], 24);
    v[a] += v[b] + y, v[d] = turned(v[d] ^ v[a], 16);
    v[c] += v[d], v[b] = turned(v[b] ^ v[c], 63);
}

void compress(uint64_t *h, const char *block, uint64_t seen, bool last) {
    uint64_t v[16], m[16];
    std::memcpy(m, block, sizeof m);  // little-endian, as this is compiled for
    for (int at = 0; at < 8; ++at) v[at] = h[at], v[at + 8] = START[at];
    v[12] ^= seen;
    if (last) v[14] = ~v[14];
#pragma GCC unroll 12
    for (int round = 0; round < 12; ++round) {
        const uint8_t *s = ORDER[round % 10];
        for (int at = 0; at < 4; ++at) mix(v, at, at + 4, at + 8, at + 12, m[s[2 * at]], m[s[2 * at + 1]]);
        for (int at = 0; at < 4; ++at)
            mix(v, at, 4 + (at + 1) % 4, 8 + (at + 2) % 4, 12 + (at + 3) % 4, m[s[8 + 2 * at]],
                m[s[9 + 2 * at]]);
    }
    for (int at = 0; at < 8; ++at) h[at] ^= v[at] ^ v[at + 8];
}

// The digest as a big-endian number. The text is filled up with zeros to whole blocks of 128.
uint64_t digest(std::string &text) {
    uint64_t h[8], length = text.size();
    for (int at = 0; at < 8; ++at) h[at] = START[at];
    h[0] ^= 0x01010000 ^ 8;
    text.resize(length ? (length + 127) / 128 * 128 : 128, '\0');
    for (uint64_t begin = 0; begin + 128 < text.size(); begin += 128)
        compress(h, text.data() + begin, begin + 128, false);
    compress(h, text.data() + text.size() - 128, length, true);
    return __builtin_bswap64(h[0]);
}

}  // namespace
