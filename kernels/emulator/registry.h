// registry.h: kernels by name, called with an array of pointers to their arguments, as
// cuLaunchKernel does; and what kind of argument each of them takes, which the caller is held to.
#pragma once
#include <type_traits>
#include <utility>

#include "block.h"

namespace emu {

struct Entry {
    void (*call)(void** arguments);
    std::string kinds;  // one letter an argument: p(ointer), u (4-byte integer), f(loat), q (8-byte integer)
};
std::map<std::string, Entry>& registry();

template <class T>
constexpr char kind() {
    if (std::is_pointer<T>::value) return 'p';
    if (std::is_same<T, float>::value) return 'f';
    if (std::is_integral<T>::value) return sizeof(T) == 8 ? 'q' : 'u';
    return '?';
}
template <class... A, size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<A*>(arguments[I])...);
}
template <class... A>
void call(void (*kernel)(A...), void** arguments) {
    call(kernel, arguments, std::index_sequence_for<A...>{});
}
template <class... A>
std::string kinds(void (*)(A...)) {
    return {kind<A>()...};
}
struct Register {
    template <class K>
    Register(const char* name, void (*call)(void**), K kernel) {
        registry()[name] = {call, kinds(kernel)};
    }
};

}  // namespace emu
