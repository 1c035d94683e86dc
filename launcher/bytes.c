/* Text that grows: for requests, keys and what is read. */
#include <stdlib.h>
#include <string.h>

#include "launcher.h"

bool bytes_reserve(struct bytes *bytes, size_t more)
{
    if (bytes->failed || more > MESSAGE_LIMIT || bytes->length + more > MESSAGE_LIMIT) {
        bytes->failed = true;
        return false;
    }
    if (bytes->length + more <= bytes->room)
        return true;
    size_t room = bytes->room ? bytes->room : 4096;
    while (room < bytes->length + more)
        room *= 2;
    char *data = realloc(bytes->data, room);
    if (!data) {
        bytes->failed = true;
        return false;
    }
    bytes->data = data;
    bytes->room = room;
    return true;
}

void bytes_add(struct bytes *bytes, const void *data, size_t length)
{
    if (length && bytes_reserve(bytes, length)) {
        memcpy(bytes->data + bytes->length, data, length);
        bytes->length += length;
    }
}

void bytes_text(struct bytes *bytes, const char *text)
{
    bytes_add(bytes, text, strlen(text));
}

void bytes_u32(struct bytes *bytes, uint32_t number)
{
    unsigned char little[4];
    for (int i = 0; i < 4; i++)
        little[i] = (unsigned char)(number >> (8 * i));
    bytes_add(bytes, little, sizeof little);
}

void bytes_str(struct bytes *bytes, const char *data, size_t length)
{
    if (length > MESSAGE_LIMIT) {
        bytes->failed = true;
        return;
    }
    bytes_u32(bytes, (uint32_t)length);
    bytes_add(bytes, data, length);
}

void bytes_number(struct bytes *bytes, uintmax_t number)
{
    char digits[24];
    size_t at = sizeof digits;
    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    bytes_add(bytes, digits + at, sizeof digits - at);
}

void bytes_signed(struct bytes *bytes, intmax_t number)
{
    if (number < 0)
        bytes_text(bytes, "-");
    bytes_number(bytes, number < 0 ? -(uintmax_t)number : (uintmax_t)number);
}
