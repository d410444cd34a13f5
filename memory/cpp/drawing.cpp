// Uniform numbers from counters, on a CPU: the bits of noise.py, which says where they are from.
// Optional, as `nearest.cpp` is.
//
// Letters: B rows, N positions.

#include <cstdint>
#include <vector>

namespace {

uint64_t mix(uint64_t x) {
    x += 0x9E3779B97F4A7C15;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
    return x ^ (x >> 31);
}

}  // namespace

extern "C" {

// Draws floats in [0, 1), `[B, N]`, from keys and steps, `[B]`.
void uniform(int64_t rows, int64_t size, const uint64_t *keys, const uint64_t *steps, float *drawn) {
    std::vector<uint32_t> places(size);
    for (int64_t at = 0; at < size; ++at) places[at] = uint32_t(mix(at));
    for (int64_t row = 0; row < rows; ++row, drawn += size) {
        const uint64_t both = mix(mix(keys[row]) ^ steps[row]);
        const uint32_t first = uint32_t(both), second = uint32_t(both >> 32);
        for (int64_t at = 0; at < size; ++at) {
            uint32_t x = places[at] ^ first;
            x = ((x ^ (x >> 16)) * 0x85EBCA6B) ^ second;
            x = (x ^ (x >> 13)) * 0xC2B2AE35;
            drawn[at] = float(int32_t((x ^ (x >> 16)) >> 8)) * (1.0f / (1 << 24));
        }
    }
}
}
