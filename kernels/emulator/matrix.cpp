// matrix.cpp: see matrix.h.
#include "matrix.h"

#include "meet.h"
#include "shared.h"
#include "touch.h"

namespace emu {

void ldmatrix(unsigned (&r)[4], const void* row, bool transposed, const char* what, Site site) {
    struct Lane {
        const void* row;
        unsigned* out;
    } own{row, r};
    check_shared(row, 16, 16, what, site);
    touch(row, 16, Access::read, site);
    warp_meet(~0u, what, site, &own, [&](void** slot) {
        for (int i = 0; i < 4; i++) {
            uint16_t m[8][8];
            unsigned banks = 0;
            for (int j = 0; j < 8; j++) {
                const void* p = static_cast<Lane*>(slot[8 * i + j])->row;
                memcpy(m[j], p, 16);
                banks |= 1u << (reinterpret_cast<uintptr_t>(p) / 16 % 8);
            }
            block->ldmatrix_phases++;
            block->ldmatrix_conflicts += unsigned(8 - __builtin_popcount(banks));
            for (int l = 0; l < 32; l++) {
                int a = l / 4, b = l % 4 * 2;
                unsigned low = transposed ? m[b][a] : m[a][b], high = transposed ? m[b + 1][a] : m[a][b + 1];
                static_cast<Lane*>(slot[l])->out[i] = low | high << 16;
            }
        }
    });
}

template <class F>
static void mma_16816(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, Site site, F to_float) {
    struct Lane {
        float* d;
        const unsigned* a;
        unsigned b[2];
    } own{d, a, {b0, b1}};
    warp_meet(~0u, "mma", site, &own, [&](void** slot) {
        typedef float Row __attribute__((vector_size(32)));  // eight columns at once
        float left[16][16];
        Row right[16], sum[16] = {};
        auto low = [&](unsigned u) { return to_float(uint16_t(u)); };
        auto high = [&](unsigned u) { return to_float(uint16_t(u >> 16)); };
        for (int l = 0; l < 32; l++) {
            auto* lane = static_cast<Lane*>(slot[l]);
            int g = l / 4, t = l % 4 * 2;
            for (int i = 0; i < 4; i++) {
                float* p = &left[g + i % 2 * 8][t + i / 2 * 8];
                p[0] = low(lane->a[i]), p[1] = high(lane->a[i]);
            }
            for (int i = 0; i < 2; i++) right[t + 8 * i][g] = low(lane->b[i]), right[t + 8 * i + 1][g] = high(lane->b[i]);
        }
        for (int row = 0; row < 16; row++)
            for (int k = 0; k < 16; k++) sum[row] += left[row][k] * right[k];
        for (int l = 0; l < 32; l++)
            for (int i = 0; i < 4; i++)
                static_cast<Lane*>(slot[l])->d[i] += sum[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2];
    });
}
void mma_16816_bf16(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, Site site) {
    mma_16816(d, a, b0, b1, site, [](uint16_t bits) { return bf16_to_float(bits); });
}
void mma_16816_f16(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, Site site) {
    mma_16816(d, a, b0, b1, site, [](uint16_t bits) { return f16_to_float(bits); });
}

}  // namespace emu
