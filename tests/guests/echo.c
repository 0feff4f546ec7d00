// The smallest workflow: what comes in goes out.
#include <stdio.h>

int main(void) {
    char buffer[4096];
    size_t got;
    while ((got = fread(buffer, 1, sizeof buffer, stdin)) > 0)
        if (fwrite(buffer, 1, got, stdout) != got) return 1;
    return 0;
}
