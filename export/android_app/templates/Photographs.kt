package {{ package }}

import android.content.Context
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.media.ExifInterface
import android.net.Uri
import androidx.camera.core.ImageProxy
import kotlin.math.max

private const val LONGEST_SIDE = 2048 // pixels of an opened photograph: enough for the network and the screen

/** The pixels of a bitmap. A bitmap in the memory of the GPU is copied first, since its pixels cannot be read there. */
fun photoOf(bitmap: Bitmap): Photo {
    val readable = if (bitmap.config == Bitmap.Config.ARGB_8888) bitmap else bitmap.copy(Bitmap.Config.ARGB_8888, false)
    val pixels = IntArray(readable.width * readable.height)
    readable.getPixels(pixels, 0, readable.width, 0, 0, readable.width, readable.height)
    return Photo(pixels, readable.width, readable.height)
}

/** A camera's image, turned as the user sees it. */
fun photoOf(image: ImageProxy): Photo = photoOf(image.toBitmap()).turned(image.imageInfo.rotationDegrees)

/** The bitmap of a photograph. */
fun bitmapOf(photo: Photo): Bitmap =
    Bitmap.createBitmap(photo.pixels, photo.width, photo.height, Bitmap.Config.ARGB_8888)

/** A photograph that the user has chosen, upright by its EXIF data; null if it cannot be read. */
fun photoOf(context: Context, uri: Uri): Photo? {
    val content = context.contentResolver
    val size = BitmapFactory.Options().apply { inJustDecodeBounds = true }
    content.openInputStream(uri)?.use { BitmapFactory.decodeStream(it, null, size) }
    val options = BitmapFactory.Options().apply {
        inSampleSize = max(1, Integer.highestOneBit(max(size.outWidth, size.outHeight) / LONGEST_SIDE))
    }
    val bitmap = content.openInputStream(uri)?.use { BitmapFactory.decodeStream(it, null, options) } ?: return null
    val orientation = content.openInputStream(uri)?.use {
        ExifInterface(it).getAttributeInt(ExifInterface.TAG_ORIENTATION, ExifInterface.ORIENTATION_NORMAL)
    }
    return photoOf(bitmap).upright(orientation ?: ExifInterface.ORIENTATION_NORMAL)
}
