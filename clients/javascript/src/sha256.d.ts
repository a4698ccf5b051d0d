/**
 * Return the digest as 64 hexadecimal digits.
 * @param {string} text
 */
export function sha256(text: string): string;
